package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// busyTime is CPU time used until some moment, in clock ticks of the whole machine. It is
// 0 if it cannot be known.
type busyTime struct {
	all, busy, stolen float64
	own               float64 // of this process and its children that have ended
}

func readBusyTime() (t busyTime) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	const user, nice, system, stolen, guest = 1, 2, 3, 8, 9
	for i, field := range strings.Fields(line) {
		ticks, _ := strconv.ParseFloat(field, 64) // a number, except for the name
		switch {
		case i >= guest: // counted as user already
			continue
		case i == user || i == nice || i == system:
			t.busy += ticks
		case i == stolen:
			t.stolen += ticks
		}
		t.all += ticks
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if syscall.Getrusage(who, &usage) == nil {
			t.own += float64(usage.Utime.Nano()+usage.Stime.Nano()) / float64(tick)
		}
	}
	return t
}

// tick is the unit in which the kernel counts CPU time: its USER_HZ is 100 wherever Go runs.
const tick = 10 * time.Millisecond

// since returns who else has used this machine since a moment before.
func (t busyTime) since(before busyTime) (n noise) {
	all := t.all - before.all
	if all <= 0 {
		return n
	}
	others := t.busy - before.busy - (t.own - before.own)
	return noise{OtherPercent: max(0, others) / all * 100, StolenPercent: (t.stolen - before.stolen) / all * 100}
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
