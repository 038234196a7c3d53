package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child process that writes its log to a file.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// startProcess starts a command. The caller ends it with stop or kill, or waits until
// it has exited. What the command prints goes to the log, unless it goes elsewhere.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	file, err := os.Create(log) //nolint:gosec // G304: in a folder of our own
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	cmd.Stderr = file
	if cmd.Stdout == nil {
		cmd.Stdout = file
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // ProcessState says how it ended
		close(p.exited)
	}()
	return p, nil
}

// stop asks a process to end, and waits for that.
func (p *process) stop() error {
	const limit = time.Minute
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.kill()
		return fmt.Errorf("%s did not stop within %s", p.cmd.Path, limit)
	}
	if !p.cmd.ProcessState.Success() {
		return p.failure()
	}
	return os.Remove(p.log) // it may be large
}

// kill ends a process, if it has not ended yet.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// failure describes a process that has ended, with the last lines that it wrote.
func (p *process) failure() error {
	const most = 2000
	text, _ := os.ReadFile(p.log)
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return fmt.Errorf("%s ended: %s\n%s", p.cmd.Path, p.cmd.ProcessState, text)
}

// peakMemory returns the peak of the resident memory of a process so far, in bytes. That
// of rusage would not do: it includes the peak of the process that forked it.
func (p *process) peakMemory() (float64, error) {
	name := fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)
	status, err := os.ReadFile(name) //nolint:gosec // G304: of a child process
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kilobytes * 1024, err
		}
	}
	return 0, fmt.Errorf("%s has no VmHWM; has the process ended?", name)
}

// cpu returns the CPU time that a process has used.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	const utime, stime = 11, 12 // counted after the name, which may contain spaces
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) <= stime {
		return 0, fmt.Errorf("cannot read the CPU time in %q", stat)
	}
	user, errUser := strconv.Atoi(fields[utime])
	system, errSystem := strconv.Atoi(fields[stime])
	return time.Duration(user+system) * tick, errors.Join(errUser, errSystem)
}

// kooworkerCommand is a command of the measured binary. The environment is that of this
// process, so that settings in it apply.
func (b *bench) kooworkerCommand(redisAddr string, args ...string) *exec.Cmd {
	cmd := exec.Command(b.kooworker, append(args, "--redis-url", "redis://"+redisAddr+"/0")...) //nolint:gosec,noctx // G204: the program to measure; ended by stop
	cmd.Env = append(os.Environ(), "KOODRIVE_TOKEN=bench")
	return cmd
}

// startWorker runs a worker of the measured binary.
func (b *bench) startWorker(redisAddr string, concurrency int) (*process, error) {
	cmd := b.kooworkerCommand(redisAddr, "worker", "--koodrive-url", b.api.url, "--concurrency", strconv.Itoa(concurrency))
	return startProcess(cmd, filepath.Join(b.dir, "worker.log"))
}

// startPlain runs a plain asynq worker.
func (b *bench) startPlain(redisAddr string, concurrency int) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, asPlain, redisAddr, b.api.url, strconv.Itoa(concurrency)) //nolint:gosec,noctx // G204: this binary; ended by stop
	return startProcess(cmd, filepath.Join(b.dir, "plain.log"))
}

// cpuOf returns the CPU time that each of the processes has used.
func cpuOf(processes []*process) ([]time.Duration, error) {
	var all []time.Duration
	for _, p := range processes {
		used, err := p.cpu()
		if err != nil {
			return nil, err
		}
		all = append(all, used)
	}
	return all, nil
}

// stallTimeout is how long a process may make no progress.
const stallTimeout = time.Minute

// await polls until nothing is left to do. It fails if the process ends before, or if as
// much is left for long.
func await(ctx context.Context, p *process, interval time.Duration, left func() (int, error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	last, since := 0, time.Now()
	for {
		n, err := left()
		switch {
		case err != nil:
			select {
			case <-p.exited: // this is why
				return p.failure()
			case <-time.After(time.Second):
				return err
			}
		case n == 0:
			return nil
		case n != last:
			last, since = n, time.Now()
		case time.Since(since) > stallTimeout:
			p.kill()
			return fmt.Errorf("for %s %d tasks have been left: %w", stallTimeout, n, p.failure())
		}
		select {
		case <-p.exited:
			return p.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
