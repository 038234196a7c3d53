package locks

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/enqueue/batch"
	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.UnixMilli(1_700_000_000_000)

// redisHook counts the commands of a client, and answers TIME with epoch plus
// shift. Scripts have the time of the real clock.
type redisHook struct {
	shift    time.Duration
	fail     error // the answer to every command, if it is set
	commands atomic.Int64
}

func (*redisHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.commands.Add(1)
		if h.fail != nil {
			cmd.SetErr(h.fail)
			return h.fail
		}
		if cmd, ok := cmd.(*redis.TimeCmd); ok {
			cmd.SetVal(epoch.Add(h.shift))
			return nil
		}
		return next(ctx, cmd)
	}
}

func (*redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// fixture is a fake source and a fake producer over a real ledger. The locks
// 0 … stale-1 are stale, the oldest first.
type fixture struct {
	store   *enqueuelocks.Store
	batches *batch.Store
	hook    *redisHook // of the sweep's client

	total    int64
	stale    int
	counted  int64 // the stale locks that Stats counts, if it is not stale
	countErr error
	staleErr error // after the last stale lock
	markErr  error
	dropErr  error
	swept    []string
	pages    []int
	dropped  []time.Duration

	batch     string
	enqueued  []tasks.LockRelease
	breakAt   int    // the producer fails after so many releases
	breakWith error  // … with this; nil: it waits until its context ends
	onBreak   func() // … after this
}

// newFixture uses database n of a server.
func newFixture(t *testing.T, server *redistest.Server, n int, f fixture) *fixture {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), DB: n, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = rdb.Close() })
	f.hook = &redisHook{}
	rdb.AddHook(f.hook)
	f.store, f.batches = enqueuelocks.NewStore(rdb), batch.NewStore(rdb)
	return &f
}

func lockName(n int) string { return fmt.Sprintf("lock-%04d@102", n) }

func (f *fixture) Kind() tasks.SourceKind { return tasks.SourceLedger }

func (f *fixture) Stats(context.Context, time.Duration, int64) (Stats, error) {
	stats := Stats{Total: f.total, Stale: int64(f.stale), Oldest: f.oldest()}
	if f.counted > 0 {
		stats.Stale = f.counted
	}
	return stats, f.countErr
}

func (f *fixture) oldest() iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		for n := range f.stale {
			if !yield(tasks.Lock{UserID: "u", LockID: lockName(n), ExpiresAt: epoch.Add(time.Duration(n) * time.Second)}, nil) {
				return
			}
		}
		if f.staleErr != nil {
			yield(tasks.Lock{}, f.staleErr)
		}
	}
}

// MarkSwept fails as Redis does once its context has ended.
func (f *fixture) MarkSwept(ctx context.Context, swept []tasks.Lock) error {
	if err := errors.Join(ctx.Err(), f.markErr); err != nil {
		return err
	}
	f.pages = append(f.pages, len(swept))
	for _, l := range swept {
		f.swept = append(f.swept, l.LockID+" "+l.ExpiresAt.Sub(epoch).String())
	}
	return nil
}

func (f *fixture) Drop(_ context.Context, keep time.Duration) (int64, error) {
	f.dropped = append(f.dropped, keep)
	return 0, f.dropErr
}

// abandoned reports whether the batch of a sweep was closed.
func (f *fixture) abandoned(t *testing.T, id string) bool {
	t.Helper()
	stats, err := f.batches.Show(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return stats.Done
}

func (f *fixture) EnqueueReleases(ctx context.Context, id string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
	if open, err := f.store.OpenBatches(ctx); err != nil || !slices.Contains(open, id) {
		return nil, fmt.Errorf("the batch is not open before anything is enqueued in it: %w", err)
	}
	if _, _, err := f.batches.Open(ctx, batch.Spec{ID: id}); err != nil {
		return nil, err
	}
	f.batch = id
	for t, err := range releases {
		if err != nil {
			return enqueued, err
		}
		if f.breakAt > 0 && len(enqueued) == f.breakAt {
			if f.onBreak != nil {
				f.onBreak()
			}
			if f.breakWith != nil {
				return enqueued, f.breakWith
			}
			<-ctx.Done()
			return enqueued, ctx.Err()
		}
		f.enqueued = append(f.enqueued, t.(tasks.LockRelease))
		enqueued = append(enqueued, t)
	}
	return enqueued, nil
}

func (f *fixture) sweeper(log *zap.Logger) *Sweeper {
	return &Sweeper{Source: f, Store: f.store, Batches: f.batches, Releases: f, Logger: log}
}

func (f *fixture) sweep(t *testing.T, o Options) (SweepReport, error) {
	t.Helper()
	return f.sweeper(zap.NewNop()).Sweep(t.Context(), o)
}

func (f *fixture) openBatches(t *testing.T) []string {
	t.Helper()
	open, err := f.store.OpenBatches(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// acquireLease takes the lease for an owner that is no sweep.
func (f *fixture) acquireLease(ctx context.Context, t *testing.T) (acquired bool) {
	t.Helper()
	acquired, err := f.store.AcquireLease(ctx, "another", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return acquired
}

// want wants the n oldest locks to be enqueued and marked, in order, and the lease to
// be released.
func (f *fixture) want(t *testing.T, n int) {
	t.Helper()
	if len(f.enqueued) != n || len(f.swept) != n {
		t.Fatalf("%d are enqueued, %d marked; want %d", len(f.enqueued), len(f.swept), n)
	}
	for i, r := range f.enqueued {
		expired := time.Duration(i) * time.Second
		if r.UserID != "u" || r.LockID != lockName(i) || r.Evidence.Source != tasks.SourceLedger || !r.Evidence.ExpiredAt.Equal(epoch.Add(expired)) {
			t.Errorf("number %d is %+v; want the oldest locks in order", i, r)
		}
		if want := lockName(i) + " " + expired.String(); f.swept[i] != want {
			t.Errorf("marked number %d: %s; want %s", i, f.swept[i], want)
		}
	}
	if ctx := context.WithoutCancel(t.Context()); !f.acquireLease(ctx, t) {
		t.Error("the lease is not free; want it released")
	} else if err := f.store.ReleaseLease(ctx, "another"); err != nil {
		t.Fatal(err)
	}
}

func TestSweep_GuardRails(t *testing.T) {
	t.Parallel()
	server, databases := redistest.Start(t), 0
	for name, c := range map[string]struct {
		total    int64
		stale    int
		sweep    tasks.LockSweep
		enqueued int
		why      string
	}{
		"empty":                     {0, 0, tasks.LockSweep{}, 0, ""},
		"none is stale":             {100, 0, tasks.LockSweep{}, 0, ""},
		"within both":               {100, 20, tasks.LockSweep{}, 20, ""},
		"exactly the share":         {100, 25, tasks.LockSweep{}, 25, ""},
		"one more than the share":   {100, 26, tasks.LockSweep{}, 0, "26 of 100 locks are stale, more than the share of 0.25"},
		"the only lock":             {1, 1, tasks.LockSweep{}, 1, ""},
		"one of three":              {3, 1, tasks.LockSweep{MaxShare: 0.01}, 1, ""},
		"all of ten":                {10, 10, tasks.LockSweep{}, 10, ""},
		"all of eleven":             {11, 11, tasks.LockSweep{}, 0, "11 of 11 locks are stale, more than the share of 0.25"},
		"all of them are allowed":   {11, 11, tasks.LockSweep{MaxShare: 1}, 11, ""},
		"exactly the most":          {100, 10, tasks.LockSweep{Max: 10}, 10, ""},
		"one more than the most":    {100, 11, tasks.LockSweep{Max: 10}, 10, "11 locks are stale, more than 10 go in one sweep"},
		"more than both":            {100, 50, tasks.LockSweep{Max: 10}, 0, "share"},
		"the default most":          {1_000_000, 10_003, tasks.LockSweep{}, 10_000, "more than 10000"},
		"force":                     {100, 100, tasks.LockSweep{Max: 10, Force: true}, 100, ""},
		"more than one page marked": {10_000, 1234, tasks.LockSweep{}, 1234, ""},
	} {
		database := databases
		databases++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, server, database, fixture{total: c.total, stale: c.stale})
			var would []string
			dry, err := f.sweep(t, Options{LockSweep: c.sweep, DryRun: true, Each: func(l tasks.Lock) { would = append(would, l.LockID) }})
			if err != nil {
				t.Fatal(err)
			}
			if int(f.hook.commands.Load())+len(f.enqueued)+len(f.swept)+len(f.dropped) > 0 {
				t.Error("a dry run has changed something")
			}
			core, logs := observer.New(zapcore.ErrorLevel)
			r, err := f.sweeper(zap.New(core)).Sweep(t.Context(), Options{LockSweep: c.sweep})
			if err != nil {
				t.Fatal(err)
			}
			f.want(t, c.enqueued)
			held := int64(c.stale - c.enqueued)
			if r.Total != c.total || r.Stale != int64(c.stale) || r.Enqueued != int64(c.enqueued) || r.HeldBack != held {
				t.Errorf("%+v; want %d enqueued and %d held back", r, c.enqueued, held)
			}
			if (c.why == "") != (r.Why == "") || !strings.Contains(r.Why, c.why) {
				t.Errorf("why: %q; want %q", r.Why, c.why)
			}
			if (held > 0) != (logs.Len() == 1) {
				t.Errorf("%d are held back, and %d errors logged; want one if any is held back", held, logs.Len())
			}
			if r.Batch != f.batch || (c.enqueued > 0) != strings.HasPrefix(r.Batch, "sweep-") {
				t.Errorf("the batch is %q, and the producer's %q", r.Batch, f.batch)
			}
			if open := f.openBatches(t); len(open) > 0 {
				t.Errorf("the batches %v are open; want none", open)
			}
			if len(f.dropped) != 1 || f.dropped[0] != DefaultKeep {
				t.Errorf("dropped: %v; want once, the default", f.dropped)
			}
			for _, n := range f.pages {
				if n > pageSize {
					t.Errorf("%d marked at once; want at most %d", n, pageSize)
				}
			}
			if dry.Batch != "" {
				t.Errorf("a dry run has the batch %q; want none", dry.Batch)
			}
			if dry.Batch = r.Batch; dry != r {
				t.Errorf("the dry run reported %+v, the sweep %+v; want the same", dry, r)
			}
			if len(would) != len(f.enqueued) {
				t.Fatalf("the dry run named %d, %d were enqueued", len(would), len(f.enqueued))
			}
			for i := range would {
				if would[i] != f.enqueued[i].LockID {
					t.Errorf("the dry run named %s, %s was enqueued", would[i], f.enqueued[i].LockID)
				}
			}
		})
	}
}

func TestSweep_DryRun(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 20, stale: 2})
	if r, err := f.sweep(t, Options{DryRun: true}); err != nil || r.Enqueued != 2 {
		t.Errorf("without Each: %+v, %v; want 2 enqueued", r, err)
	}
	f.counted, f.staleErr = 3, errors.New("the source broke")
	if _, err := f.sweep(t, Options{DryRun: true, Each: func(tasks.Lock) {}}); !errors.Is(err, f.staleErr) {
		t.Errorf("%v; want the source's error", err)
	}
}

func TestSweep_TakesNoMoreThanWereCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 100, stale: 9, counted: 5})
	r, err := f.sweep(t, Options{})
	if err != nil || r.Enqueued != 5 {
		t.Errorf("%+v, %v; want 5 enqueued", r, err)
	}
	f.want(t, 5)
}

func TestSweep_AllRenewedSinceTheCount(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 100, counted: 5})
	r, err := f.sweep(t, Options{})
	if err != nil || r.Enqueued != 0 || r.Batch != "" {
		t.Errorf("%+v, %v; want nothing enqueued, and no batch", r, err)
	}
}

func TestSweep_AnotherIsRunning(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 10, stale: 1})
	if !f.acquireLease(t.Context(), t) {
		t.Fatal("the lease is not free")
	}
	if _, err := f.sweep(t, Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("%v; want ErrBusy", err)
	}
	if !f.acquireLease(t.Context(), t) || len(f.enqueued)+len(f.dropped) > 0 {
		t.Errorf("%d enqueued, %d dropped; want that a busy sweep does nothing, and leaves the lease", len(f.enqueued), len(f.dropped))
	}
	f.hook.fail = errors.New("Redis is away")
	if _, err := f.sweep(t, Options{}); !errors.Is(err, f.hook.fail) {
		t.Errorf("%v; want the error of the lease", err)
	}
}

func TestSweep_InvalidOptions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 10, stale: 1})
	for _, o := range []tasks.LockSweep{{Grace: -1}, {Max: -1}, {MaxShare: 1.5}} {
		if _, err := f.sweep(t, Options{LockSweep: o}); err == nil || f.hook.commands.Load() > 0 {
			t.Errorf("%+v: %v after %d commands; want an error before any", o, err, f.hook.commands.Load())
		}
	}
}

// Whatever is enqueued is marked, wherever the sweep breaks.
func TestSweep_MarksWhatIsEnqueued(t *testing.T) {
	t.Parallel()
	server, databases := redistest.Start(t), 0
	broken := errors.New("it broke")
	for name, c := range map[string]struct {
		fixture  fixture
		enqueued int
	}{
		"the producer":          {fixture{stale: 1000, breakAt: 700, breakWith: broken}, 700},
		"the source":            {fixture{stale: 700, counted: 1000, staleErr: broken}, 700},
		"the producer, at once": {fixture{stale: 1000, breakAt: 1, breakWith: broken}, 1},
		"dropping, at the end":  {fixture{stale: 700, dropErr: broken}, 700},
		"counting, at first":    {fixture{stale: 700, countErr: broken}, 0},
		"marking":               {fixture{stale: 700, markErr: broken}, 700},
	} {
		c.fixture.total = 10_000
		f := newFixture(t, server, databases, c.fixture)
		databases++
		r, err := f.sweep(t, Options{})
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v; want its error", name, err)
		}
		if name == "marking" {
			if len(f.swept) > 0 || len(f.dropped) > 0 || r.Enqueued != 700 {
				t.Errorf("%s: %+v, %d marked, %d dropped; want 700 enqueued, and nothing marked or dropped", name, r, len(f.swept), len(f.dropped))
			}
			continue
		}
		f.want(t, c.enqueued)
	}
}

func TestSweep_LosesItsLease(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFixture(t, server, 0, fixture{total: 10_000, stale: 1000, breakAt: 700})
	f.onBreak = func() { // the lease expires, and somebody else acquires it
		if err := server.Client().Set(t.Context(), "{kooworker:locks}:sweeping", "another", time.Minute).Err(); err != nil {
			t.Error(err)
		}
	}
	began := time.Now()
	r, err := f.sweep(t, Options{})
	if err == nil || !strings.Contains(err.Error(), "the lease of the sweep is lost") {
		t.Errorf("%v; want that the lease is lost", err)
	}
	if took := time.Since(began); took > leaseTTL {
		t.Errorf("it ended after %s; want it before the lease expires after %s", took, leaseTTL)
	}
	f.want(t, 700)
	if r.Enqueued != 700 || len(f.dropped) > 0 {
		t.Errorf("%+v, %d dropped; want 700 enqueued, and nothing dropped", r, len(f.dropped))
	}
}

func TestSweep_Stopped(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 10_000, stale: 1000, breakAt: 700})
	ctx, cancel := context.WithCancel(t.Context())
	f.onBreak = cancel
	if _, err := f.sweeper(zap.NewNop()).Sweep(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want the error of its context", err)
	}
	f.want(t, 700)
}

// If several ticks gather while no worker runs, one sweep is enough.
func TestSweep_GatheredTicks(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 100, stale: 1})
	f.hook.shift = time.Hour
	releases := 0
	sweepFor := func(tick time.Duration) error {
		t.Helper()
		defer func() { releases, f.enqueued = releases+len(f.enqueued), nil }()
		_, err := f.sweep(t, Options{ScheduledFor: epoch.Add(tick)})
		return err
	}
	lastSweep := func() time.Time {
		last, err := f.store.LastSweep(t.Context(), tasks.SourceLedger)
		if err != nil {
			t.Fatal(err)
		}
		return last
	}
	if err := sweepFor(time.Minute); err != nil { // all of them have waited for long
		t.Fatal(err)
	}
	for _, tick := range []time.Duration{2 * time.Minute, 59 * time.Minute, time.Hour} {
		if err := sweepFor(tick); !errors.Is(err, ErrDone) {
			t.Errorf("a sweep for the tick after %s: %v; want ErrDone", tick, err)
		}
	}
	if releases != 1 {
		t.Errorf("%d releases; want those of one sweep", releases)
	}
	f.hook.shift += time.Minute
	if err := sweepFor(time.Hour + time.Second); err != nil { // a new tick
		t.Error(err)
	}
	if _, err := f.sweep(t, Options{}); err != nil { // by hand
		t.Error(err)
	}
	f.enqueued = nil
	f.hook.shift = time.Minute // the clock was set back
	if err := sweepFor(30 * time.Second); err != nil {
		t.Error(err)
	}
	f.markErr, f.hook.shift = errors.New("it broke"), 2*time.Hour
	before := lastSweep()
	if err := sweepFor(90 * time.Minute); !errors.Is(err, f.markErr) || !lastSweep().Equal(before) {
		t.Errorf("%v; want the sweep that stopped early not to count", err)
	}
}

func TestSweep_ClosesTheBatchOfOneThatWasCutShort(t *testing.T) {
	t.Parallel()
	f := newFixture(t, redistest.Start(t), 0, fixture{total: 10_000, stale: 1000, breakAt: 700, breakWith: errors.New("it broke")})
	if _, err := f.sweep(t, Options{}); !errors.Is(err, f.breakWith) {
		t.Fatal(err)
	}
	first := f.batch
	if open := f.openBatches(t); !slices.Equal(open, []string{first}) || f.abandoned(t, first) {
		t.Errorf("open %v, abandoned %t; want %s to be open", open, f.abandoned(t, first), first)
	}
	f.breakAt, f.enqueued = 0, nil
	if _, err := f.sweep(t, Options{DryRun: true}); err != nil || f.abandoned(t, first) {
		t.Errorf("%v; a dry run has abandoned %s; want nothing", err, first)
	}
	if _, err := f.sweep(t, Options{}); err != nil {
		t.Fatal(err)
	}
	if open := f.openBatches(t); !f.abandoned(t, first) || len(open) > 0 || f.batch == first {
		t.Errorf("abandoned %t, open %v after the batch %s; want %s abandoned, and none open", f.abandoned(t, first), open, f.batch, first)
	}
}

// Somebody has written to the ledgers by hand. The other locks are swept all the same.
func TestSweep_UnreadableEntriesHoldUpNoOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f, rdb := newFixture(t, server, 0, fixture{}), server.Client()
	soon := time.Now().Add(200 * time.Millisecond)
	if _, err := f.store.Track(t.Context(), []enqueuelocks.TrackRequest{{UserID: "u", LockID: "l", ExpiresAt: soon}}); err != nil {
		t.Fatal(err)
	}
	if err := rdb.ZAdd(t.Context(), "{kooworker:locks}:expiry", redis.Z{Score: 1, Member: "nospace"}, redis.Z{Score: 2, Member: "another"}).Err(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.batches.Open(t.Context(), batch.Spec{ID: "sweep-broken"}); err != nil {
		t.Fatal(err)
	}
	if err := f.store.OpenBatch(t.Context(), "sweep-broken"); err != nil {
		t.Fatal(err)
	}
	if err := rdb.HDel(t.Context(), "kooworker:{batch:sweep-broken}:meta", "total").Err(); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.ErrorLevel)
	sweeper := f.sweeper(zap.New(core))
	sweeper.Source = Ledger{Store: f.store}
	redistest.Eventually(t, 10*time.Second, "the lock is swept", func() bool {
		r, err := sweeper.Sweep(t.Context(), Options{LockSweep: tasks.LockSweep{Grace: time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Enqueued == 1
	})
	if len(f.enqueued) != 1 || f.enqueued[0].LockID != "l" {
		t.Errorf("enqueued %+v; want the lock that can be read", f.enqueued)
	}
	for _, line := range []string{"a lock cannot be read, and stays", "cannot close the batch of a sweep that stopped early; the next sweep tries again"} {
		if logs.FilterMessage(line).Len() == 0 {
			t.Errorf("no line %q in the log", line)
		}
	}
	if bad := logs.FilterMessageSnippet("cannot be read").FilterFieldKey("error"); bad.Len()%2 != 0 {
		t.Errorf("%d lines; want one for each of the two in each sweep", bad.Len())
	}
}

func TestIsSweep(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"sweep-0193541c-8f7a-7d3e-9c4b-000000000001": true, "sweep-2026": false, "0193541c-8f7a-7d3e-9c4b-000000000001": false, "": false,
	} {
		if got := IsSweep(id); got != want {
			t.Errorf("%q: %t; want %t", id, got, want)
		}
	}
}
