package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// Redis persists nothing and restarts while a file without a batch is being enqueued.
func TestEnqueueFile_SaysThatRedisHasLostTasks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	inspector := asynq.NewInspectorFromRedisClient(server.Client())
	pending := func() int { return infoOf(t, inspector, tasks.QueueUnbind).Pending }
	first := unbindsCSV(10)
	second := strings.TrimPrefix(unbindsCSV(20), first)
	stdin, in := io.Pipe()
	t.Cleanup(func() { _ = in.Close() })
	var stdout, stderr redistest.Buffer
	args := []string{"enqueue", "unbind", "--file", "-", "--json", "--redis-url", server.URL()}
	code := make(chan int, 1)
	go func() { code <- run(t.Context(), args, stdin, &stdout, &stderr) }()
	if _, err := io.WriteString(in, first); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, "the first half is enqueued", func() bool { return pending() == 10 })
	server.Kill()
	server.Restart()
	if _, err := io.WriteString(in, second); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	if got := <-code; got != exitFailed {
		t.Errorf("exit %d, %s; want 1", got, stderr.String())
	}
	for _, want := range []string{"Redis has lost tasks that it had acknowledged", resume, "hint: run the same command again"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%s; want %q", stderr.String(), want)
		}
	}
	if pending() != 10 {
		t.Errorf("%d tasks are queued; want the 10 of the second half", pending())
	}
	r := kooworker(t, unbindsCSV(20), args...)
	if sum := r.object(t); r.code != exitDone || sum["enqueued"] != 10.0 || sum["duplicate"] != 10.0 {
		t.Errorf("again: %+v; want exit 0, 10 enqueued and 10 duplicates", r)
	}
}
