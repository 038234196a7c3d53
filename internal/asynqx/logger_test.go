package asynqx

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestLogger_SamplesLinesThatDifferInTheTaskOnly(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	l := NewLogger(zap.New(core))
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
