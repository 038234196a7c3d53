package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// signal sends a signal that is not to end the process.
func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// journald is restarted, or the tee behind the worker is killed.
func TestWorker_WorksOnWithoutItsLog(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	api := newFakeAPI(t, 0)
	logs, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(os.Args[0], "worker", "--redis-url", server.URL(), "--koodrive-url", api.URL, "--log-level", "debug")}
	p.cmd.Env = append(os.Environ(), asKooworker+"=1", "KOODRIVE_TOKEN=t0ken")
	p.cmd.Stdout, p.cmd.Stderr = stderr, stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	_ = stderr.Close()
	if _, err := logs.Read(make([]byte, 1)); err != nil { // it runs and writes
		t.Fatal(err)
	}
	producer := newProducer(t, server.Client())
	producer.enqueueMany(t, 5)
	redistest.Eventually(t, 20*time.Second, "tasks are done", func() bool { n, _ := api.executed(); return n == 5 })
	_ = logs.Close()
	producer.enqueueMany(t, 20) // each of them makes log lines
	redistest.Eventually(t, 20*time.Second, "tasks are done without a log", func() bool { n, _ := api.executed(); return n == 25 })
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("SIGTERM without a log: exit %d, %v; want exit 0", code, p.cmd.ProcessState)
	}
}

func TestWorker_SIGHUPReadsSecretsAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	sim.Bind("u", simulator.Device{DeviceID: "d-1"})
	token := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		t.Helper()
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // the file looks as before
		if err := os.WriteFile(token, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(token, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	p := startProcess(t, []string{"KOODRIVE_TOKEN_FILE=" + token}, "worker", "--redis-url", server.URL(), "--koodrive-url", url)
	logged := func(part string) {
		t.Helper()
		redistest.Eventually(t, 20*time.Second, "the log says "+part, func() bool { return strings.Contains(p.log(), part) })
	}
	logged("worker is running")
	write("t0ken")
	p.signal(t, syscall.SIGHUP)
	logged("SIGHUP: files of secrets are read again")
	r := kooworker(t, "", "enqueue", "unbind", "--user-id", "u", "--device-id", "d-1", "--redis-url", server.URL())
	redistest.Eventually(t, 20*time.Second, "the device is unbound", func() bool { return sim.Stats().Unbound == 1 })
	if refused := sim.Stats().AuthRefusals; r.code != exitDone || refused != 0 {
		t.Errorf("%+v, %d calls with the old token; want exit 0, and none", r, refused)
	}
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("SIGTERM: exit %d; want exit 0\n%s", code, p.log())
	}
}

// The second signal of an impatient operator, and further ones, lose nothing: no
// lease is left, and nothing is charged.
func TestWorker_SecondSignalShortensTheWait(t *testing.T) {
	t.Parallel()
	for _, signals := range [][]syscall.Signal{
		{syscall.SIGTERM, syscall.SIGTERM},
		{syscall.SIGTERM, syscall.SIGINT, syscall.SIGTERM, syscall.SIGTERM, syscall.SIGINT},
	} {
		t.Run(fmt.Sprint(signals), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			api := newFakeAPI(t, time.Hour)
			rdb := server.Client()
			p := startWorker(t, server, api.URL)
			newProducer(t, rdb).enqueueMany(t, 5)
			redistest.Eventually(t, 20*time.Second, "all are in flight", func() bool { return len(api.targetsInFlight()) == 5 })
			began := time.Now()
			for _, sig := range signals {
				p.signal(t, sig)
				letTimePass(300 * time.Millisecond)
			}
			_ = p.cmd.Wait()
			if code, took := p.cmd.ProcessState.ExitCode(), time.Since(began); code != exitDone || took > 8*time.Second {
				t.Errorf("exit %d after %s; want exit 0 within 8s\n%s", code, took, p.log())
			}
			for _, lane := range lanesOf(t, asynq.NewInspectorFromRedisClient(rdb), tasks.QueueUnbind) {
				if leases, err := rdb.ZCard(t.Context(), "asynq:{"+lane+"}:lease").Result(); err != nil || leases != 0 {
					t.Errorf("%d leases are left in %s, %v; want none", leases, lane, err)
				}
			}
			if n := chargedAttempts(t, rdb); n != 0 {
				t.Errorf("%d attempts were charged; want none", n)
			}
		})
	}
}
