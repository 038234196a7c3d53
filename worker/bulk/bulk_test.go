package bulk_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// wantOnce checks that each of the forbidden letters was replayed once, and no other.
func (b *bundle) wantOnce(n int) {
	b.t.Helper()
	tried := b.replays()
	for i := range n {
		id := letter(b.t, fmt.Sprint("u", i%7), fmt.Sprint(i), tasks.Intent{}).ID
		want := 1
		if i%3 == 0 {
			want = 0
		}
		if tried[id] != want {
			b.t.Errorf("%s was replayed %d times; want %d", id, tried[id], want)
		}
		delete(tried, id)
	}
	if len(tried) > 0 {
		b.t.Errorf("%v were replayed as well", tried)
	}
}

var forbidden = deadletter.Filter{Reasons: []tasks.Reason{tasks.Forbidden}}

// TestRunner_KilledHalfWay kills the process that runs a job, twice. The letters that were
// replayed die again at once, of the same reason, so they match again.
func TestRunner_KilledHalfWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(func(deadletter.Letter) error { return errors.New("forbidden: still") })
	const n = 3000
	b.park(n)
	id := b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden, Rate: 1000})
	for _, done := range []int64{400, 1000} {
		p := b.startProcess()
		redistest.Eventually(t, time.Minute, fmt.Sprintf("%d letters are replayed", done), func() bool { return b.get(id).Done >= done })
		p.kill()
		if j := b.get(id); j.State != bulk.Running || j.Done == 2*n/3 {
			t.Fatalf("after the kill: %+v; want it half-way", j)
		}
	}
	b.startProcess()
	if j := b.awaitEnd(id); j.State != bulk.Done || j.Done != 2*n/3 || j.Matched != j.Done || j.Skipped != 0 || j.Looked != j.Entries {
		t.Errorf("%+v; want all %d replayed", j, 2*n/3)
	}
	b.awaitParked(n)
	b.wantOnce(n)
}

// TestRunner_FrozenHalfWay freezes a process until another one has taken its job over, and lets
// it go on.
func TestRunner_FrozenHalfWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(func(deadletter.Letter) error { return errors.New("forbidden: still") })
	const n = 1500
	b.park(n)
	id := b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden, Rate: 500})
	p := b.startProcess()
	redistest.Eventually(t, time.Minute, "the job is half-way", func() bool { return b.get(id).Done >= 100 })
	p.signal(syscall.SIGSTOP)
	frozenAt := b.get(id).Done
	b.startProcess()
	redistest.Eventually(t, time.Minute, "another process goes on", func() bool { return b.get(id).Done > frozenAt+100 })
	p.signal(syscall.SIGCONT)
	if j := b.awaitEnd(id); j.State != bulk.Done || j.Done != 2*n/3 || j.Skipped != 0 {
		t.Errorf("%+v; want all %d replayed", j, 2*n/3)
	}
	b.awaitParked(n)
	b.wantOnce(n)
}

// TestRunner_TwoRunners run several jobs over the same letters.
func TestRunner_TwoRunners(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(func(deadletter.Letter) error { return errors.New("forbidden: still") })
	const n = 900
	b.park(n)
	ids := []string{
		b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden, Rate: 2000}),
		b.order(bulk.Order{Kind: bulk.Replay, Filter: deadletter.Filter{Reasons: []tasks.Reason{tasks.Forbidden}, UserID: "u3"}}),
	}
	b.run()
	b.run()
	for _, id := range ids {
		if j := b.awaitEnd(id); j.State != bulk.Done || j.Matched != j.Done+j.Skipped {
			t.Errorf("%+v; want it done", j)
		}
	}
	b.awaitParked(n)
	b.wantOnce(n)
	jobs, err := b.jobs.List(t.Context())
	if err != nil || len(jobs) != 2 || jobs[0].By != "ann" || jobs[0].Reason == "" || jobs[0].EndedAt.Before(jobs[0].OrderedAt) {
		t.Errorf("%+v, %v; want both jobs with who ordered them, and when they ended", jobs, err)
	}
}

// TestRunner_OnlyWhatWasDeadThen parks letters after the order. They stay.
func TestRunner_OnlyWhatWasDeadThen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(func(deadletter.Letter) error { return nil })
	b.park(30)
	id := b.order(bulk.Order{Kind: bulk.Replay, All: true})
	late := letter(t, "late", "late", tasks.Intent{})
	b.must(b.letters.Park(t.Context(), late))
	b.awaitParked(31)
	// A copy of a letter that is there dies meanwhile: the letter is still the old one.
	b.must(b.letters.Park(t.Context(), letter(t, "u1", "1", tasks.Intent{})))
	b.run()
	if j := b.awaitEnd(id); j.State != bulk.Done || j.Done != 30 {
		t.Errorf("%+v; want the 30 replayed", j)
	}
	b.awaitParked(1)
	if tried := b.replays(); len(tried) != 30 || tried[late.ID] != 0 {
		t.Errorf("%v were replayed; want those that were dead at the time of the order", tried)
	}
}

// TestRunner_ShowsItsFirstReasonAgain replays a letter that has died of two reasons. It crashes its
// worker, and then shows the first reason, whose entry the job has still to come to.
func TestRunner_ShowsItsFirstReasonAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	twice := letter(t, "twice", "twice", tasks.Intent{})
	first := true
	b.work(func(l deadletter.Letter) error {
		switch {
		case l.ID != twice.ID:
			return nil
		case first:
			first = false
			return errors.New("upstream: HTTP 503")
		default:
			return errors.New("crashed: 1 workers died while they worked on it")
		}
	})
	const n = 60
	b.must(b.letters.Park(t.Context(), twice))
	b.awaitParked(1)
	for i := range n {
		b.must(b.letters.Park(t.Context(), letter(t, "u", fmt.Sprint(i), tasks.Intent{})))
	}
	b.awaitParked(n + 1)
	_, err := b.letters.Replay(t.Context(), deadletter.Filter{IDs: []string{twice.ID}}, deadletter.Options{})
	b.must(err)
	b.awaitParked(n + 1)
	id := b.order(bulk.Order{Kind: bulk.Replay, All: true, Rate: 20})
	b.run()
	if j := b.awaitEnd(id); j.State != bulk.Done || j.Done != n+1 || j.Looked != n+2 {
		t.Errorf("%+v; want each of %d letters replayed, and an entry that is passed over", j, n+1)
	}
	b.awaitParked(1)
	if tried := b.replays()[twice.ID]; tried != 2 {
		t.Errorf("the letter was replayed %d times; want once before the job and once by it", tried)
	}
}

// TestRunner_Arriving orders a replay of a letter that no worker has parked yet.
func TestRunner_Arriving(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.letters.Park(t.Context(), letter(t, "u", "d", tasks.Intent{})))
	id := b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden})
	b.run()
	redistest.Eventually(t, time.Minute, "the job has begun", func() bool { return b.get(id).State == bulk.Running })
	b.work(func(deadletter.Letter) error { return nil })
	if j := b.awaitEnd(id); j.Done != 1 {
		t.Errorf("%+v; want the letter that arrived replayed", j)
	}
	b.awaitParked(0)
}

func TestRunner_Stop(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(func(deadletter.Letter) error { return nil })
	const n = 300
	b.park(n)
	id := b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden, Rate: 20})
	b.run()
	redistest.Eventually(t, time.Minute, "the job is under way", func() bool { return b.get(id).Done > 0 })
	b.must(b.jobs.Stop(t.Context(), id, "bob", "wrong reason"))
	stopped := b.get(id).Done
	j := b.awaitEnd(id)
	if j.State != bulk.Stopped || j.StoppedBy != "bob" || j.StopReason != "wrong reason" || j.Done != stopped || j.Done >= 2*n/3 {
		t.Errorf("%+v; want it stopped by bob with %d done", j, stopped)
	}
	if err := b.jobs.Stop(t.Context(), id, "bob", ""); !errors.Is(err, bulk.ErrEnded) {
		t.Errorf("stop it again: %v; want ErrEnded", err)
	}
	if err := b.jobs.Stop(t.Context(), "none", "bob", ""); !errors.Is(err, bulk.ErrNotFound) {
		t.Errorf("stop what does not exist: %v; want ErrNotFound", err)
	}
	b.awaitParked(n - int(stopped))
}

func TestRunner_CanaryFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(func(deadletter.Letter) error { return errors.New("forbidden: still") })
	const n, canary = 90, 10
	b.park(n)
	id := b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden, Canary: canary, MinSuccess: 0.5})
	b.run()
	j := b.awaitEnd(id)
	if j.State != bulk.Failed || j.Done != canary || j.CanaryReplayed != canary || j.CanarySucceeded != 0 || !strings.Contains(j.Error, "canary") || j.Hint == "" {
		t.Errorf("%+v; want it failed after a canary of %d, with a hint", j, canary)
	}
	b.awaitParked(n)
	if tried := b.replays(); len(tried) != canary {
		t.Errorf("%d letters were replayed; want the canary", len(tried))
	}
	if left := b.rdb.Exists(t.Context(), "kooworker:{dead-letter}:canary:"+id, "kooworker:{dead-letter}:lease:"+id).Val(); left != 0 {
		t.Errorf("%d keys of a job that has ended are left besides its record; want none", left)
	}
}

// TestRunner_KilledInTheCanary kills the process while it waits for the canary. The next one
// waits for the same letters, and then replays the others.
func TestRunner_KilledInTheCanary(t *testing.T) {
	t.Parallel()
	b := setup(t)
	release := make(chan struct{})
	b.work(func(deadletter.Letter) error {
		<-release
		return nil
	})
	const n, canary = 90, 10
	b.park(n)
	id := b.order(bulk.Order{Kind: bulk.Replay, Filter: forbidden, Canary: canary, MinSuccess: 1})
	p := b.startProcess()
	redistest.Eventually(t, time.Minute, "the canary is sent", func() bool { return b.get(id).Done == canary })
	p.kill()
	b.run()
	lease, renewals, last := "kooworker:{dead-letter}:lease:"+id, 0, time.Duration(0)
	redistest.Eventually(t, time.Minute, "this process has taken over, and renews its lease", func() bool {
		left := b.rdb.PTTL(t.Context(), lease).Val()
		if left > last {
			renewals++
		}
		last = left
		return renewals > 3
	})
	if j := b.get(id); j.State != bulk.Canary || j.Done != canary {
		t.Errorf("%+v; want it waiting for the canary", j)
	}
	close(release)
	if j := b.awaitEnd(id); j.State != bulk.Done || j.Done != 2*n/3 || j.CanarySucceeded != canary || j.CanaryReplayed != canary {
		t.Errorf("%+v; want all done after the canary", j)
	}
	b.awaitParked(n / 3)
	b.wantOnce(n)
}

// TestRunner_Discard discards letters of a batch and single ones, and kills the process
// half-way: the ledger and the history know of each.
func TestRunner_Discard(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(func(deadletter.Letter) error { return nil })
	const n, singles = 400, 100
	b.parkBatch("b1", n)
	for i := range singles {
		b.must(b.letters.Park(t.Context(), letter(t, "single", fmt.Sprint(i), tasks.Intent{})))
	}
	b.awaitParked(n + singles)
	id := b.order(bulk.Order{Kind: bulk.Discard, Filter: forbidden, Rate: 300})
	p := b.startProcess()
	redistest.Eventually(t, time.Minute, "the job is half-way", func() bool { return b.get(id).Done >= 150 })
	p.kill()
	b.run()
	if j := b.awaitEnd(id); j.State != bulk.Done || j.Done != n+singles || j.Skipped != 0 {
		t.Errorf("%+v; want all discarded", j)
	}
	b.awaitParked(0)
	stats, err := batch.NewStore(b.rdb).Show(t.Context(), "b1")
	if err != nil || stats.Discarded != n || stats.Dead != 0 {
		t.Errorf("the ledger says %+v, %v; want all discarded", stats, err)
	}
	known := map[string]bool{}
	for r, err := range history.NewStore(b.rdb).OfUser(t.Context(), "single") {
		b.must(err)
		known[r.Target] = r.Outcome == tasks.Discarded
	}
	if len(known) != singles {
		t.Errorf("the history knows %d of %d single orders", len(known), singles)
	}
	if left := b.rdb.Keys(t.Context(), "kooworker:{dead-letter}:[rub]*:*").Val(); len(left) != 0 {
		t.Errorf("entries of discarded letters are left: %q", left)
	}
}

// parkBatch makes a batch of n tasks that all are dead.
func (b *bundle) parkBatch(id string, n int) {
	b.t.Helper()
	ctx, ledger := b.t.Context(), batch.NewStore(b.rdb)
	_, _, err := ledger.Open(ctx, batch.Spec{ID: id})
	b.must(err)
	var rolling batch.RollingDigest
	var digests []batch.Digest
	for i := range n {
		rolling.AddTask(tasks.DeviceUnbind{UserID: "u", DeviceID: fmt.Sprint(i)})
		digests = append(digests, rolling.Digest())
	}
	c, err := ledger.ClaimChunk(ctx, id, 0, digests)
	b.must(err)
	var marks []batch.Mark
	for i := range n {
		marks = append(marks, batch.Mark{Index: c.Index(i), State: batch.Queued})
	}
	b.must(ledger.Mark(ctx, id, marks, nil))
	b.must(ledger.CloseInput(ctx, id, int64(n)))
	var dead []tasks.Receipt
	for i := range n {
		l := letter(b.t, "u", fmt.Sprint(i), tasks.Intent{BatchRef: tasks.BatchRef{Batch: id, Index: c.Index(i)}})
		l.ID = fmt.Sprint(id, ":", i)
		receipt, ok := l.Receipt(tasks.Dead)
		if !ok {
			b.t.Fatal("the letter has no receipt")
		}
		dead = append(dead, receipt)
		b.must(b.letters.Park(ctx, l))
	}
	_, _, err = ledger.RecordOutcomes(ctx, dead)
	b.must(err)
}

func TestOrder_Invalid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ok := bulk.Order{Kind: bulk.Replay, Filter: forbidden, By: "ann", Reason: "why"}
	for name, change := range map[string]func(*bulk.Order){
		"no kind":              func(o *bulk.Order) { o.Kind = "repeat" },
		"no filter":            func(o *bulk.Order) { o.Filter = deadletter.Filter{} },
		"a negative limit":     func(o *bulk.Order) { o.Filter.Limit = -1 },
		"a negative rate":      func(o *bulk.Order) { o.Rate = -1 },
		"a canary too large":   func(o *bulk.Order) { o.Canary = bulk.MaxCanary + 1 },
		"a canary of discards": func(o *bulk.Order) { o.Kind, o.Canary = bulk.Discard, 1 },
		"a share above 1":      func(o *bulk.Order) { o.MinSuccess = 1.5 },
		"nobody":               func(o *bulk.Order) { o.By = " " },
		"no reason":            func(o *bulk.Order) { o.Reason = " \n" },
		"a reason too long":    func(o *bulk.Order) { o.Reason = strings.Repeat("x", bulk.MaxReason+1) },
		"too many letters":     func(o *bulk.Order) { o.Filter.IDs = make([]string, bulk.MaxIDs+1) },
	} {
		o := ok
		change(&o)
		if id, err := b.jobs.Order(t.Context(), o); err == nil {
			t.Errorf("%s: ordered %s; want an error", name, id)
		} else if _, isInvalid := errors.AsType[*bulk.InvalidError](err); !isInvalid {
			t.Errorf("%s: %v; want an InvalidError", name, err)
		}
	}
	if jobs, err := b.jobs.List(t.Context()); err != nil || len(jobs) != 0 {
		t.Errorf("%v, %v; want no job", jobs, err)
	}
	if _, err := b.jobs.Get(t.Context(), "none"); !errors.Is(err, bulk.ErrNotFound) {
		t.Errorf("get what does not exist: %v; want ErrNotFound", err)
	}
}

// TestStore_Bounded ends more jobs than are kept, and opens more than may be open.
func TestStore_Bounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stop := b.run()
	const rounds, each, kept = 3, 90, 200
	for range rounds {
		var last string
		for range each {
			last = b.order(bulk.Order{Kind: bulk.Discard, All: true})
		}
		redistest.Eventually(t, time.Minute, "all have ended", func() bool {
			return !b.get(last).State.IsOpen() && b.rdb.ZCard(t.Context(), "kooworker:{dead-letter}:jobs:open").Val() == 0
		})
	}
	stop()
	jobs, err := b.jobs.List(t.Context())
	if records := len(b.rdb.Keys(t.Context(), "kooworker:{dead-letter}:job:*").Val()); err != nil || len(jobs) != kept || records != kept {
		t.Errorf("%d jobs, %d records, %v; want %d", len(jobs), records, err, kept)
	}
	if ttl := b.rdb.TTL(t.Context(), "kooworker:{dead-letter}:job:"+jobs[0].ID).Val(); ttl < 29*24*time.Hour || ttl > 30*24*time.Hour {
		t.Errorf("a job that has ended is kept for %s; want 30 days", ttl)
	}
	for range 100 {
		b.order(bulk.Order{Kind: bulk.Discard, All: true})
	}
	if _, err := b.jobs.Order(t.Context(), bulk.Order{Kind: bulk.Discard, All: true, By: "x", Reason: "y"}); !errors.Is(err, bulk.ErrTooMany) {
		t.Errorf("one more: %v; want ErrTooMany", err)
	}
}
