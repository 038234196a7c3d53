package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/recovery"
)

// damage makes n tasks in each of the states that are repaired. It returns for each
// task where it has to end: a set, or "parked".
func (b *bundle) damage(n int) map[string]string {
	b.t.Helper()
	ctx, want := b.t.Context(), map[string]string{}
	written := ago(45 * time.Second) // late enough for asynq's own recoverer to wait
	b.leaveHeartbeat("w", written)
	for i := range n {
		id := func(kind string) string { return fmt.Sprintf("%s-%03d", kind, i) }
		hash := func(kind string) string { return key(unbind, "t:"+id(kind)) }
		for _, kind := range []string{"crashed", "poison", "expired", "orphan", "garbage", "archived", "stranded", "fine"} {
			b.enqueue(unbind, id(kind))
		}
		b.take(unbind, id("crashed"), written.Add(30*time.Second))
		b.take(unbind, id("poison"), written.Add(30*time.Second))
		b.must(b.rdb.HSet(ctx, hash("poison"), "kooworker_alone", "w", "kooworker_crashes_alone", "2", "kooworker_crashes_calm", "2").Err())
		b.take(unbind, id("expired"), ago(5*time.Second))
		b.take(unbind, id("orphan"), ago(5*time.Second))
		b.must(b.rdb.ZRem(ctx, key(unbind, "lease"), id("orphan")).Err())
		b.take(unbind, id("garbage"), ago(5*time.Second))
		b.must(b.rdb.HSet(ctx, hash("garbage"), "msg", "\xff").Err())
		b.must(b.inspector.ArchiveTask(unbind, id("archived")))
		b.must(b.rdb.LRem(ctx, key(unbind, "pending"), 0, id("stranded")).Err())
		b.must(b.rdb.HSet(ctx, hash("stranded"), "state", "retry").Err())
		for kind, end := range map[string]string{
			"crashed": "pending", "poison": "parked", "expired": "pending", "orphan": "active",
			"garbage": "parked", "archived": "parked", "stranded": "pending", "fine": "pending",
		} {
			want[id(kind)] = end
		}
	}
	return want
}

// misplaced describes each task that has not ended where it should. A task that is
// in a list twice is one of them.
func (b *bundle) misplaced(want map[string]string) (problems []string) {
	b.t.Helper()
	parked := map[string]bool{}
	for _, id := range b.parker.ids() {
		parked[strings.TrimPrefix(id, unbind+":")] = true // what cannot be read gets the queue before its ID
	}
	for id, end := range want {
		expect := map[string]string{"pending": "[pending hash]", "active": "[active lease hash]", "parked": "[]"}[end]
		if got := fmt.Sprint(b.where(unbind, id)); got != expect {
			problems = append(problems, fmt.Sprintf("%s is in %s; want %s", id, got, expect))
		}
		if parked[id] != (end == "parked") {
			problems = append(problems, fmt.Sprintf("%s parked: %v; want %v", id, parked[id], end == "parked"))
		}
	}
	return problems
}

func (b *bundle) wantPlaced(want map[string]string) {
	b.t.Helper()
	for i, problem := range b.misplaced(want) {
		if i == 10 {
			b.t.Fatal("and more")
		}
		b.t.Error(problem)
	}
}

// TestRepairer_TwoAtOnce lets two repairers act at once, as may happen when one of
// them is slow: each task is repaired once.
func TestRepairer_TwoAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := b.damage(100)
	one, two := b.repairer(), b.repairer()
	recovery.ShareLock(one, two)
	var wg sync.WaitGroup
	for _, r := range []*recovery.Repairer{one, two} {
		wg.Go(func() {
			for range 20 {
				if err := r.Pass(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.wantPlaced(want)
	b.want(map[recovery.Repair]int{
		recovery.Requeued: 200, recovery.Crashed: 100, recovery.Leased: 100,
		recovery.Quarantined: 100, recovery.Collected: 100, recovery.Restored: 100,
	})
}

// TestRepairer_TwoAtOnceBesideAWorker lets a real worker take and finish tasks
// meanwhile.
func TestRepairer_TwoAtOnceBesideAWorker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := b.damage(100)
	one, two := b.repairer(), b.repairer()
	recovery.ShareLock(one, two)
	var runs sync.Map
	b.work(b.redis.Client(), func(ctx context.Context, _ *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		n, _ := runs.LoadOrStore(id, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		return nil
	})
	var wg sync.WaitGroup
	for _, r := range []*recovery.Repairer{one, two} {
		wg.Go(func() {
			for range 30 {
				_ = r.Pass(t.Context())
			}
		})
	}
	wg.Wait()
	redistest.Eventually(t, 30*time.Second, "an empty pending list", func() bool {
		return b.rdb.LLen(t.Context(), key(unbind, "pending")).Val() == 0 && b.activeIn(unbind) == 100 // the orphans, leased
	})
	for id, end := range want {
		n := int64(0)
		if v, ok := runs.Load(id); ok {
			n = v.(*atomic.Int64).Load()
		}
		if should := end == "pending"; (n == 1) != should || n > 1 {
			t.Errorf("%s ran %d times; want it to end as %s", id, n, end)
		}
	}
}

// faults makes two in five scripts of a client fail: one before it reaches Redis, and
// one after that, so that its reply is lost. To Redis that looks like a crash
// between any two steps.
type faults struct{}

var errFault = errors.New("injected")

func (faults) DialHook(next redis.DialHook) redis.DialHook { return next }
func (faults) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (faults) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if name := cmd.Name(); name != "evalsha" && name != "eval" {
			return next(ctx, cmd)
		}
		switch rand.N(5) { //nolint:gosec // which one fails is no secret
		case 0:
			cmd.SetErr(errFault)
			return errFault
		case 1:
			_ = next(ctx, cmd)
			cmd.SetErr(errFault)
			return errFault
		default:
			return next(ctx, cmd)
		}
	}
}

// TestRepairer_CrashBetweenAnyTwoSteps repairs over a connection that breaks all the
// time, with a Parker that stores and then fails every third time.
func TestRepairer_CrashBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := b.damage(25)
	rdb := b.redis.Client()
	rdb.AddHook(faults{})
	b.cfg.Redis = rdb
	flaky := &flakyParker{parker: b.parker}
	b.cfg.Parker = flaky
	r := b.repairer()
	redistest.Eventually(t, 60*time.Second, "every task where it belongs", func() bool {
		for range 20 {
			_ = r.Pass(t.Context())
		}
		return len(b.misplaced(want)) == 0
	})
	if n := flaky.n.Load(); n <= 75 {
		t.Errorf("the Parker was called %d times for 75 tasks; want more, since calls fail", n)
	}
}

// flakyParker stores every letter, and returns an error every third time.
type flakyParker struct {
	*parker
	n atomic.Int64
}

func (p *flakyParker) Park(ctx context.Context, l deadletter.Letter) error {
	err := p.parker.Park(ctx, l)
	if p.n.Add(1)%3 == 0 {
		return errFault
	}
	return err
}
