package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// busyTime is CPU time used until some moment, in clock ticks.
type busyTime struct {
	all float64 // of all cores, idle or not
	own float64 // of this process and its children
	// others is what other programs have used, and what the host has given to others.
	others float64
}

// tick is the unit in which the kernel counts CPU time: its USER_HZ is 100 wherever Go
// runs.
const tick = 10 * time.Millisecond

// readBusyTime reads the CPU time of the machine. The children are those that have ended,
// and one that runs.
func readBusyTime(running *process) (t busyTime, err error) {
	own, err := running.cpu()
	if err != nil {
		return t, err
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if err := syscall.Getrusage(who, &usage); err != nil {
			return t, err
		}
		own += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	t.own = float64(own) / float64(tick)
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	const user, nice, system, stolen = 1, 2, 3, 8 // what follows is counted as user already
	if len(fields) <= stolen {
		return t, fmt.Errorf("cannot read the CPU time in %q", line)
	}
	for i, field := range fields[user : stolen+1] {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return t, fmt.Errorf("cannot read the CPU time in %q: %w", line, err)
		}
		t.all += ticks
		if i += user; i == user || i == nice || i == system || i == stolen {
			t.others += ticks
		}
	}
	t.others -= t.own
	return t, nil
}

// percentOfOthers is about the share of the machine that others have used since before:
// the kernel samples the time of all, and measures that of a process.
func (t busyTime) percentOfOthers(before busyTime) float64 {
	return max(0, t.others-before.others) / (t.all - before.all) * 100
}

// cpuName returns the name of the processor, "" if it is not known.
func cpuName() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
