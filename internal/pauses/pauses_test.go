package pauses_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func read(t *testing.T, rdb redis.UniversalClient) pauses.Lanes {
	t.Helper()
	lanes, err := pauses.Read(t.Context(), rdb)
	if err != nil {
		t.Fatal(err)
	}
	return lanes
}

func set(t *testing.T, rdb redis.UniversalClient, o pauses.Order, queues ...string) {
	t.Helper()
	if err := pauses.Set(t.Context(), rdb, queues, o); err != nil {
		t.Fatal(err)
	}
}

// one returns the only pause.
func one(t *testing.T, rdb redis.UniversalClient) pauses.Group {
	t.Helper()
	groups := read(t, rdb).Groups()
	if len(groups) != 1 {
		t.Fatalf("%v; want one pause", groups)
	}
	return groups[0]
}

// asynq and asynqmon see the pause of each lane, and can end it.
func TestSet_PausesAsAsynqDoes(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	for queue := range tasks.QueueWeights() {
		rdb.SAdd(t.Context(), asynqx.AllQueuesKey, queue) // as a server does
	}
	set(t, rdb, pauses.Order{By: "alice@ops-1", Reason: "the wrong file"}, tasks.QueueUnbind)
	isPaused := func(queue string) bool {
		t.Helper()
		info, err := inspector.GetQueueInfo(queue)
		if err != nil {
			t.Fatal(err)
		}
		return info.Paused
	}
	for queue := range tasks.QueueWeights() {
		if want := slices.Contains(tasks.LanesOf(tasks.QueueUnbind), queue); isPaused(queue) != want {
			t.Errorf("%s: paused %t; want %t", queue, !want, want)
		}
	}
	if g := one(t, rdb); !g.IsWhole() || g.By != "alice@ops-1" || g.Reason != "the wrong file" || !g.Until.IsZero() || time.Since(g.Since).Abs() > time.Minute {
		t.Errorf("%+v; want the pause of all lanes, since now, without an end", g)
	}
	if err := inspector.UnpauseQueue(tasks.QueueUnbind); err != nil {
		t.Fatal(err)
	}
	if g := one(t, rdb); g.IsWhole() || !strings.HasPrefix(g.String(), "10 of 11 lanes of queue unbind are paused by alice@ops-1") {
		t.Errorf("%s; want all lanes but one", g)
	}
	if err := pauses.Remove(t.Context(), rdb, []string{tasks.QueueUnbind}); err != nil {
		t.Fatal(err)
	}
	if lanes := read(t, rdb); len(lanes) != 0 || isPaused("unbind-bulk") {
		t.Errorf("%v; want none after the end of the pause", lanes)
	}
}

// A pause that was made elsewhere has no reason, and can be taken over.
func TestRead_MadeElsewhere(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	if err := asynq.NewInspectorFromRedisClient(rdb).PauseQueue(tasks.QueueSweep); err != nil {
		t.Fatal(err)
	}
	before := one(t, rdb)
	if before.By != "" || before.Reason != "" || time.Since(before.Since).Abs() > time.Minute || !strings.Contains(before.String(), "asynqmon") {
		t.Errorf("%+v; want a pause from elsewhere, since now", before)
	}
	set(t, rdb, pauses.Order{By: "bob@ops-2", Reason: "line 1\nline 2\x1b[31m"}, tasks.QueueSweep)
	if g := one(t, rdb); g.By != "bob@ops-2" || g.Reason != "line 1 line 2 [31m" || !g.Since.Equal(before.Since) {
		t.Errorf("%+v; want bob's, in one line, since %s", g, before.Since)
	}
	rdb.Set(t.Context(), asynqx.PausedKey(tasks.QueueSweep), "of a later version", 0)
	if g := one(t, rdb); g.Pause != (pauses.Pause{}) {
		t.Errorf("%+v; want a pause of which nothing is known", g)
	}
}

// A second call gives the reason and the end anew. What a call has left that died in the
// middle is completed.
func TestSet_Again(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	set(t, rdb, pauses.Order{By: "a@b", For: time.Hour}, tasks.QueueUnbind, tasks.QueueWebhook)
	first := read(t, rdb)
	if len(first.Groups()) != 2 {
		t.Fatalf("%v; want two queues", first.Groups())
	}
	for _, lane := range tasks.LanesOf(tasks.QueueUnbind)[4:] {
		rdb.Del(t.Context(), asynqx.PausedKey(lane))
	}
	for range 2 {
		set(t, rdb, pauses.Order{By: "a@b", Reason: "more", For: 2 * time.Hour}, tasks.QueueUnbind)
		g := read(t, rdb).Groups()[0]
		if left := time.Until(g.Until); !g.IsWhole() || g.Reason != "more" || !g.Since.Equal(first[tasks.QueueUnbind].Since) || left < time.Hour+50*time.Minute || left > 2*time.Hour+time.Minute {
			t.Errorf("%+v; want all lanes with the new reason and end, since %s", g, first[tasks.QueueUnbind].Since)
		}
	}
	set(t, rdb, pauses.Order{By: "a@b"}, tasks.QueueUnbind)
	if ttl := rdb.PTTL(t.Context(), asynqx.PausedKey(tasks.QueueUnbind)).Val(); ttl > 0 {
		t.Errorf("it ends in %s; want no end", ttl)
	}
}

// A pause with an end ends by Redis' clock, though nobody looks.
func TestSet_EndsByItself(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	set(t, rdb, pauses.Order{By: "a@b", For: 1500 * time.Millisecond}, tasks.Queues()...)
	begun := time.Now()
	if lanes := read(t, rdb); len(lanes) != len(tasks.QueueWeights()) {
		t.Fatalf("%d lanes are paused; want all %d", len(lanes), len(tasks.QueueWeights()))
	}
	redistest.Eventually(t, 20*time.Second, "all pauses end", func() bool { return len(read(t, rdb)) == 0 })
	if took := time.Since(begun); took < time.Second {
		t.Errorf("they have ended after %s; want 1.5s", took)
	}
}

func TestSet_Cluster(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartCluster(t, 3, false, "--cluster-node-timeout", "60000").Client()
	set(t, rdb, pauses.Order{By: "a@b", For: time.Hour}, tasks.QueueUnbind)
	if g := one(t, rdb); !g.IsWhole() || g.By != "a@b" {
		t.Errorf("%+v; want all lanes", g)
	}
	if err := pauses.Remove(t.Context(), rdb, []string{tasks.QueueUnbind}); err != nil {
		t.Fatal(err)
	}
	if lanes := read(t, rdb); len(lanes) != 0 {
		t.Errorf("%v; want none", lanes)
	}
}
