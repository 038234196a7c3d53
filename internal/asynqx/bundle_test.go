package asynqx

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// bundled captures tasks and bundles them.
type bundled struct {
	t       *testing.T
	rdb     redis.UniversalClient
	capture *ScriptCapture
	scripts []Script
}

func newBundled(t *testing.T) *bundled {
	t.Helper()
	rdb := redistest.Start(t).Client()
	return &bundled{t: t, rdb: rdb, capture: NewScriptCapture(rdb)}
}

func (b *bundled) add(queue, id string, runAt time.Time) {
	b.t.Helper()
	s, err := b.capture.Capture(b.t.Context(), asynq.NewTask("x", []byte(id)), TaskOptions(queue, id, runAt)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.scripts = append(b.scripts, s)
}

// run sends the bundles. It returns what each script replied, and -1 for those
// whose bundle has failed, with its error.
func (b *bundled) run() (bundles int, replies []int64, err error) {
	b.t.Helper()
	ctx := context.WithoutCancel(b.t.Context())
	all := b.capture.Bundle(b.scripts)
	_, _ = b.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, bundle := range all {
			bundle.EvalSha(ctx, p)
		}
		return nil
	})
	replies = slices.Repeat([]int64{-1}, len(b.scripts))
	for _, bundle := range all {
		if e := bundle.Each(func(i int, reply int64) { replies[i] = reply }); e != nil {
			err = e
		}
	}
	return len(all), replies, err
}

func TestBundle_RunsEachScript(t *testing.T) {
	t.Parallel()
	b, later := newBundled(t), time.Now().Add(time.Hour)
	const n = 250
	for i := range n { // two queues in turn, and now and then one that is due later
		runAt := time.Time{}
		if i%10 == 9 {
			runAt = later
		}
		b.add([]string{"a", "b"}[i%2], fmt.Sprint("t", i), runAt)
	}
	if _, _, err := b.run(); !IsNoScript(err) {
		t.Fatalf("before Load: %v; want NOSCRIPT", err)
	}
	if err := b.capture.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	bundles, replies, err := b.run()
	if err != nil || !slices.Equal(replies, slices.Repeat([]int64{1}, n)) {
		t.Fatalf("replies %v, %v; want 1 for each", replies, err)
	}
	if bundles != 4 { // of queue a two (125 calls), of b one (100), and one of those that are due later
		t.Errorf("%d bundles; want 4", bundles)
	}
	if err := b.rdb.SAdd(t.Context(), AllQueuesKey, "a", "b").Err(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		queue, id := []string{"a", "b"}[i%2], fmt.Sprint("t", i)
		info, err := asynq.NewInspectorFromRedisClient(b.rdb).GetTaskInfo(queue, id)
		if err != nil || string(info.Payload) != id || (info.State == asynq.TaskStateScheduled) != (i%10 == 9) {
			t.Fatalf("%s: %+v, %v; want it as captured", id, info, err)
		}
	}
	// asynq takes the oldest task from the right end.
	if got := b.rdb.LRange(t.Context(), PendingKey("a"), -3, -1).Val(); !slices.Equal(got, []string{"t4", "t2", "t0"}) {
		t.Errorf("the end of the queue is %v; want the order of the scripts", got)
	}
}

func TestBundle_TellsIDsThatAreTaken(t *testing.T) {
	t.Parallel()
	b := newBundled(t)
	for _, id := range []string{"x", "y", "x", "z"} {
		b.add("a", id, time.Time{})
	}
	b.capture.Bundle(b.scripts) // so that Load knows the bundle
	if err := b.capture.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, replies, err := b.run(); err != nil || !slices.Equal(replies, []int64{1, 1, 0, 1}) {
		t.Errorf("replies %v, %v; want 0 for the second x only", replies, err)
	}
}

// A script that fails ends its bundle, and leaves the others alone.
func TestBundle_Fails(t *testing.T) {
	t.Parallel()
	b, ctx := newBundled(t), t.Context()
	b.add("a", "x", time.Time{})
	b.add("b", "y", time.Time{})
	b.capture.Bundle(b.scripts)
	if err := b.capture.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.rdb.Set(ctx, PendingKey("a"), "not a list", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, replies, err := b.run(); err == nil || !slices.Equal(replies, []int64{-1, 1}) {
		t.Errorf("replies %v, %v; want an error and 1", replies, err)
	}
}
