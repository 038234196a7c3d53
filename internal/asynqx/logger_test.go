package asynqx

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestLogger_SamplesLinesThatDifferInTheTaskOnly(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	l := NewLogger(Sampled(zap.New(core)))
	for _, id := range []string{"a", "b", "c", "d"} {
		l.Warn("Could not remove task id=" + id + " type=x")
	}
	l.Info("Starting processing")
	l.Error("Failed to close redis client connection: redis connection is shared")
	l.Fatal("could not start")
	var got []string
	for _, entry := range logs.All() {
		line := entry.LoggerName + " " + entry.Level.String() + " " + entry.Message
		if id, ok := entry.ContextMap()["id"].(string); ok {
			line += " " + id
		}
		got = append(got, line)
	}
	want := []string{
		"asynq warn Could not remove task id=… type=x a",
		"asynq warn Could not remove task id=… type=x b",
		"asynq warn Could not remove task id=… type=x c",
		"asynq debug Starting processing",
		"asynq debug Failed to close redis client connection: redis connection is shared",
		"asynq error could not start",
	}
	if len(got) != len(want) {
		t.Fatalf("wrote %q; want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d: %q; want %q", i, got[i], want[i])
		}
	}
}

// Each line is one that a worker wrote while Redis was away.
func TestLogger_LinesAreReadable(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("b:abcdefghijklmnopqrstuv ", 40)
	for line, want := range map[string]string{
		"Failed to forward scheduled tasks: INTERNAL_ERROR: INTERNAL_ERROR: redis eval error: dial tcp 127.0.0.1:1: connect: connection refused": "Failed to forward scheduled tasks: dial tcp 127.0.0.1:1: connect: connection refused",
		"Failed to write server state data: UNKNOWN: redis command error: SADD failed: i/o timeout":                                              "Failed to write server state data: SADD failed: i/o timeout",
		`Failed to delete expired completed tasks from queue "unbind-batch-7": INTERNAL_ERROR: redis eval error: LOADING Redis is loading`:       "Failed to delete expired completed tasks from queue …: LOADING Redis is loading queue=unbind-batch-7",
		"Lease reset failed for b:x; lease deadline: 2026-11-27 17:53:57.7 +0000 UTC m=+35.274110831":                                            "Lease reset failed for id=… id=b:x lease_until=2026-11-27 17:53:57.7 +0000 UTC",
		`Could not move task id=b:x from "asynq:{unbind}:active" to "asynq:{unbind}:retry"; Will retry syncing`:                                  `Could not move task id=… from "active" to "retry"; Will retry syncing id=b:x queue=unbind`,
		"Failed to extend lease for tasks [" + long + "]: i/o timeout":                                                                           "Failed to extend lease for 40 tasks: i/o timeout",
		"recovering from panic. See the stack trace below for details:\ngoroutine 1":                                                             "recovering from panic. See the stack trace below for details: stack=goroutine 1",
		strings.Repeat("x", 400): strings.Repeat("x", 250) + "…",
	} {
		core, logs := observer.New(zap.DebugLevel)
		NewLogger(zap.New(core)).Error(line)
		entry := logs.All()[0]
		got := entry.Message
		for _, name := range []string{"id", "queue", "lease_until", "stack"} {
			if value, ok := entry.ContextMap()[name]; ok {
				got += fmt.Sprintf(" %s=%s", name, value)
			}
		}
		if got != want {
			t.Errorf("%s\nbecame %s\nwant   %s", line, got, want)
		}
	}
}
