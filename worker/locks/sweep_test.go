package locks

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLedger is a source, its lease, and the producer that takes its releases.
// Locks 0 … stale-1 are stale, oldest first.
type fakeLedger struct {
	mu        sync.Mutex
	total     int64
	stale     int
	counted   int64 // stale ones by the count, if it is not the same
	countErr  error
	staleErr  error // after the last
	sweptErr  error
	dropErr   error
	swept     []string
	pages     []int
	dropped   []time.Duration
	owner     string // who has the lease
	holdErr   error
	hold      func(ctx context.Context, n int) (bool, error) // of the nth hold, if there is one
	holds     int
	batch     string
	enqueued  []tasks.LockRelease
	begun     []string
	abandoned []string
	now       time.Duration // since the epoch
	done      time.Time
	breakAt   int   // the producer fails after so many
	breakWith error // … with this; nil: it waits for the end of its context
}

func lockName(n int) string { return fmt.Sprintf("lock-%04d@102", n) }

var epoch = time.UnixMilli(1_700_000_000_000)

func (f *fakeLedger) Kind() tasks.Source { return tasks.SourceLedger }

func (f *fakeLedger) Survey(context.Context, time.Duration, int64) (tasks.Survey, error) {
	is := tasks.Survey{Total: f.total, Stale: int64(f.stale), Oldest: f.oldest()}
	if f.counted > 0 {
		is.Stale = f.counted
	}
	return is, f.countErr
}

func (f *fakeLedger) oldest() iter.Seq2[tasks.Lock, error] {
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

// Swept fails as Redis does once its context is over.
func (f *fakeLedger) Swept(ctx context.Context, swept []tasks.Lock) error {
	if err := errors.Join(ctx.Err(), f.sweptErr); err != nil {
		return err
	}
	f.pages = append(f.pages, len(swept))
	for _, l := range swept {
		f.swept = append(f.swept, l.LockID+" "+l.ExpiresAt.Sub(epoch).String())
	}
	return nil
}

func (f *fakeLedger) Drop(_ context.Context, keep time.Duration) (int64, error) {
	f.dropped = append(f.dropped, keep)
	return 0, f.dropErr
}

func (f *fakeLedger) Hold(ctx context.Context, owner string, _ time.Duration) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds++
	if f.hold != nil {
		if held, err := f.hold(ctx, f.holds); !held || err != nil {
			return held, err
		}
	}
	if f.holdErr != nil || f.owner != "" && f.owner != owner {
		return false, f.holdErr
	}
	f.owner = owner
	return true, nil
}

func (f *fakeLedger) Leave(_ context.Context, owner string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owner == owner {
		f.owner = ""
	}
	return nil
}

func (f *fakeLedger) Begin(_ context.Context, batch string) error {
	if len(f.enqueued) > 0 {
		return errors.New("too late")
	}
	f.begun = append(f.begun, batch)
	return nil
}

func (f *fakeLedger) Finish(_ context.Context, batch string) error {
	f.begun = slices.DeleteFunc(f.begun, func(b string) bool { return b == batch })
	return nil
}

func (f *fakeLedger) Unfinished(context.Context) ([]string, error) { return slices.Clone(f.begun), nil }

func (f *fakeLedger) Now(context.Context) (time.Time, error) { return epoch.Add(f.now), nil }

func (f *fakeLedger) Done(_ context.Context, _ tasks.Source, began time.Time) error {
	f.done = began
	return nil
}

func (f *fakeLedger) LastDone(context.Context, tasks.Source) (time.Time, error) { return f.done, nil }

func (f *fakeLedger) Abandon(_ context.Context, batch string) error {
	f.abandoned = append(f.abandoned, batch)
	return nil
}

func (f *fakeLedger) Releases(ctx context.Context, batch string, releases iter.Seq2[tasks.Task, error]) (enqueued []tasks.Task, err error) {
	f.batch = batch
	for t, err := range releases {
		if err != nil {
			return enqueued, err
		}
		if f.breakAt > 0 && len(enqueued) == f.breakAt {
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

func (f *fakeLedger) sweeper(log *zap.Logger) *Sweeper {
	return &Sweeper{Source: f, Lease: f, Producer: f, Logger: log}
}

func (f *fakeLedger) sweep(t *testing.T, o Options) (Report, error) {
	t.Helper()
	return f.sweeper(zap.NewNop()).Sweep(t.Context(), o)
}

// want compares what went with the n oldest locks, and what was noted with it.
func (f *fakeLedger) want(t *testing.T, n int) {
	t.Helper()
	if len(f.enqueued) != n || len(f.swept) != n {
		t.Fatalf("%d are enqueued, %d noted; want %d", len(f.enqueued), len(f.swept), n)
	}
	for i, r := range f.enqueued {
		expired := time.Duration(i) * time.Second
		if r.UserID != "u" || r.LockID != lockName(i) || r.Evidence.Source != tasks.SourceLedger || !r.Evidence.ExpiredAt.Equal(epoch.Add(expired)) {
			t.Errorf("number %d is %+v; want the oldest ones in order", i, r)
		}
		if want := lockName(i) + " " + expired.String(); f.swept[i] != want {
			t.Errorf("noted number %d: %s; want %s", i, f.swept[i], want)
		}
	}
	if f.owner != "" {
		t.Error("the lease was not given back")
	}
}

func TestTheGuardRails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		total int64
		stale int
		sweep tasks.LockSweep
		goes  int
		why   string
	}{
		"empty":                    {0, 0, tasks.LockSweep{}, 0, ""},
		"none is stale":            {100, 0, tasks.LockSweep{}, 0, ""},
		"within both":              {100, 20, tasks.LockSweep{}, 20, ""},
		"the share, to the lock":   {100, 25, tasks.LockSweep{}, 25, ""},
		"one more than the share":  {100, 26, tasks.LockSweep{}, 0, "26 of 100 locks are stale, more than the share of 0.25"},
		"all of them":              {7, 7, tasks.LockSweep{}, 0, "share"},
		"all of them are allowed":  {7, 7, tasks.LockSweep{MaxShare: 1}, 7, ""},
		"the most, to the lock":    {100, 10, tasks.LockSweep{Max: 10}, 10, ""},
		"one more than the most":   {100, 11, tasks.LockSweep{Max: 10}, 10, "11 locks are stale, more than 10 go in one sweep"},
		"more than both":           {100, 50, tasks.LockSweep{Max: 10}, 0, "share"},
		"the default most":         {1_000_000, 10_003, tasks.LockSweep{}, 10_000, "more than 10000"},
		"force":                    {100, 100, tasks.LockSweep{Max: 10, Force: true}, 100, ""},
		"more than one page noted": {10_000, 1234, tasks.LockSweep{}, 1234, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeLedger{total: c.total, stale: c.stale}
			var would []string
			dry, err := f.sweep(t, Options{LockSweep: c.sweep, DryRun: true, Each: func(l tasks.Lock) { would = append(would, l.LockID) }})
			if err != nil {
				t.Fatal(err)
			}
			if f.holds+len(f.enqueued)+len(f.swept)+len(f.dropped) > 0 {
				t.Error("a dry run has changed something")
			}
			core, logs := observer.New(zapcore.ErrorLevel)
			r, err := f.sweeper(zap.New(core)).Sweep(t.Context(), Options{LockSweep: c.sweep})
			if err != nil {
				t.Fatal(err)
			}
			f.want(t, c.goes)
			held := int64(c.stale - c.goes)
			if r.Total != c.total || r.Stale != int64(c.stale) || r.Enqueued != int64(c.goes) || r.HeldBack != held {
				t.Errorf("%+v; want %d enqueued and %d held back", r, c.goes, held)
			}
			if (c.why == "") != (r.Why == "") || !strings.Contains(r.Why, c.why) {
				t.Errorf("why: %q; want %q", r.Why, c.why)
			}
			if (held > 0) != (logs.Len() == 1) {
				t.Errorf("%d are held back, and %d errors logged", held, logs.Len())
			}
			if r.Batch != f.batch || (c.goes > 0) != strings.HasPrefix(r.Batch, "sweep-") {
				t.Errorf("the batch is %q, and the producer's %q", r.Batch, f.batch)
			}
			if len(f.dropped) != 1 || f.dropped[0] != DefaultKeep {
				t.Errorf("dropped: %v; want once, the default", f.dropped)
			}
			for _, n := range f.pages {
				if n > sweptAtOnce {
					t.Errorf("%d noted at once", n)
				}
			}
			if dry.Batch != "" {
				t.Errorf("a dry run has a batch: %q", dry.Batch)
			}
			if dry.Batch = r.Batch; dry != r {
				t.Errorf("the dry run said %+v, the sweep %+v", dry, r)
			}
			if len(would) != len(f.enqueued) {
				t.Fatalf("the dry run named %d, %d went", len(would), len(f.enqueued))
			}
			for i := range would {
				if would[i] != f.enqueued[i].LockID {
					t.Errorf("the dry run named %s, %s went", would[i], f.enqueued[i].LockID)
				}
			}
		})
	}
}

func TestADryRunWithoutALookAtEach(t *testing.T) {
	t.Parallel()
	f := &fakeLedger{total: 20, stale: 2}
	if r, err := f.sweep(t, Options{DryRun: true}); err != nil || r.Enqueued != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	f.counted, f.staleErr = 3, errors.New("the source broke")
	if _, err := f.sweep(t, Options{DryRun: true, Each: func(tasks.Lock) {}}); !errors.Is(err, f.staleErr) {
		t.Errorf("%v; want the source's error", err)
	}
}

func TestLocksThatGoStaleMeanwhileWaitForTheNextSweep(t *testing.T) {
	t.Parallel()
	f := &fakeLedger{total: 100, stale: 9, counted: 5}
	r, err := f.sweep(t, Options{})
	if err != nil || r.Enqueued != 5 {
		t.Errorf("%+v, %v; want no more than were counted", r, err)
	}
	f.want(t, 5)
}

func TestASweepWhoseLocksWereAllRenewedHasNoBatch(t *testing.T) {
	t.Parallel()
	f := &fakeLedger{total: 100, counted: 5}
	r, err := f.sweep(t, Options{})
	if err != nil || r.Enqueued != 0 || r.Batch != "" {
		t.Errorf("%+v, %v; want nothing enqueued, and no batch", r, err)
	}
}

func TestOneSweepAtATime(t *testing.T) {
	t.Parallel()
	f := &fakeLedger{total: 10, stale: 1, owner: "another"}
	if _, err := f.sweep(t, Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("%v; want ErrBusy", err)
	}
	if f.owner != "another" || len(f.enqueued)+len(f.dropped) > 0 {
		t.Errorf("a busy sweep did something: %+v", f)
	}
	f.holdErr = errors.New("Redis is away")
	if _, err := f.sweep(t, Options{}); !errors.Is(err, f.holdErr) {
		t.Errorf("%v; want the lease's error", err)
	}
}

func TestASweepWithBadOptionsDoesNothing(t *testing.T) {
	t.Parallel()
	f := &fakeLedger{total: 10, stale: 1}
	for _, o := range []tasks.LockSweep{{Grace: -1}, {Max: -1}, {MaxShare: 1.5}} {
		if _, err := f.sweep(t, Options{LockSweep: o}); err == nil || f.holds > 0 {
			t.Errorf("%+v: %v after %d holds; want an error before any", o, err, f.holds)
		}
	}
}

func TestWhatIsEnqueuedIsNotedWhateverComesAfter(t *testing.T) {
	t.Parallel()
	broken := errors.New("it broke")
	for name, f := range map[string]*fakeLedger{
		"the producer":           {total: 10_000, stale: 1000, breakAt: 700, breakWith: broken},
		"the source":             {total: 10_000, stale: 700, counted: 1000, staleErr: broken},
		"the producer, at once":  {total: 10_000, stale: 1000, breakAt: 1, breakWith: broken},
		"dropping, in the end":   {total: 10_000, stale: 700, dropErr: broken},
		"counting, in the begin": {total: 10_000, stale: 700, countErr: broken},
		"noting":                 {total: 10_000, stale: 700, sweptErr: broken},
	} {
		r, err := f.sweep(t, Options{})
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v; want its error", name, err)
		}
		if name == "noting" {
			if len(f.swept) > 0 || len(f.dropped) > 0 || r.Enqueued != 700 {
				t.Errorf("%s: %+v", name, r)
			}
			continue
		}
		f.want(t, len(f.enqueued))
		if want := map[string]int{"the producer": 700, "the source": 700, "the producer, at once": 1, "dropping, in the end": 700}[name]; len(f.enqueued) != want {
			t.Errorf("%s: %d are enqueued; want %d", name, len(f.enqueued), want)
		}
	}
}

func TestASweepThatLosesItsLeaseEnds(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(context.Context, int) (bool, error){
		"somebody else has it": func(_ context.Context, n int) (bool, error) { return n < 3, nil },
		"Redis is away": func(_ context.Context, n int) (bool, error) {
			if n > 1 {
				return false, errors.New("away")
			}
			return true, nil
		},
		"Redis hangs": func(ctx context.Context, n int) (bool, error) {
			if n > 1 {
				<-ctx.Done()
				return false, ctx.Err()
			}
			return true, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fakeLedger{total: 10_000, stale: 1000, breakAt: 700, hold: hold}
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				r, err := f.sweeper(zap.NewNop()).Sweep(ctx, Options{})
				if err == nil || !strings.Contains(err.Error(), "the lease of the sweep is lost") {
					t.Errorf("%v; want that the lease is lost", err)
				}
				if took := time.Since(begin); took > leaseLife {
					t.Errorf("it ended after %s; the lease was over after %s", took, leaseLife)
				}
				f.want(t, 700)
				if r.Enqueued != 700 || len(f.dropped) > 0 {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

func TestAShortHiccupDoesNotEndASweep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLedger{total: 10_000, stale: 1000, breakAt: 700}
		f.hold = func(_ context.Context, n int) (bool, error) {
			if n == 2 || n == 3 {
				return false, errors.New("away")
			}
			return true, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := f.sweeper(zap.NewNop()).Sweep(ctx, Options{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want that it ended by its own deadline", err)
		}
		f.want(t, 700)
	})
}

func TestOfTheTicksThatHaveGatheredOneIsEnough(t *testing.T) {
	t.Parallel()
	f := &fakeLedger{total: 100, stale: 1, now: time.Hour}
	releases := 0
	due := func(after time.Duration) error {
		t.Helper()
		defer func() { releases, f.enqueued = releases+len(f.enqueued), nil }()
		_, err := f.sweep(t, Options{Due: epoch.Add(after)})
		return err
	}
	if err := due(time.Minute); err != nil { // all wait since long
		t.Fatal(err)
	}
	for _, after := range []time.Duration{2 * time.Minute, 59 * time.Minute, time.Hour} {
		if err := due(after); !errors.Is(err, ErrDone) {
			t.Errorf("one that was due after %s: %v; want ErrDone", after, err)
		}
	}
	if releases != 1 {
		t.Errorf("%d releases; want those of one sweep", releases)
	}
	f.now += time.Minute
	if err := due(time.Hour + time.Second); err != nil { // a new tick
		t.Error(err)
	}
	if _, err := f.sweep(t, Options{}); err != nil { // nobody's tick
		t.Error(err)
	}
	f.enqueued = nil
	f.now = time.Minute // the clock was set back
	if err := due(30 * time.Second); err != nil {
		t.Error(err)
	}
	f.sweptErr, f.now = errors.New("it broke"), 2*time.Hour
	was := f.done
	if err := due(90 * time.Minute); !errors.Is(err, f.sweptErr) || !f.done.Equal(was) {
		t.Errorf("%v; a sweep that was cut short counts as done", err)
	}
}

func TestTheNextSweepEndsTheBatchOfOneThatWasCutShort(t *testing.T) {
	t.Parallel()
	f := &fakeLedger{total: 10_000, stale: 1000, breakAt: 700, breakWith: errors.New("it broke")}
	if _, err := f.sweep(t, Options{}); !errors.Is(err, f.breakWith) {
		t.Fatal(err)
	}
	first := f.batch
	if !slices.Equal(f.begun, []string{first}) || len(f.abandoned) > 0 {
		t.Errorf("begun %v, abandoned %v; want %s to be left", f.begun, f.abandoned, first)
	}
	f.breakAt, f.enqueued = 0, nil
	if _, err := f.sweep(t, Options{DryRun: true}); err != nil || len(f.abandoned) > 0 {
		t.Errorf("%v; a dry run has abandoned %v", err, f.abandoned)
	}
	if _, err := f.sweep(t, Options{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.abandoned, []string{first}) || len(f.begun) > 0 || f.batch == first {
		t.Errorf("abandoned %v, and begun are %v after the batch %s", f.abandoned, f.begun, f.batch)
	}
}

func TestAStoppedSweepNotesWhatIsEnqueued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLedger{total: 10_000, stale: 1000, breakAt: 700}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := f.sweeper(zap.NewNop()).Sweep(ctx, Options{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		f.want(t, 700)
	})
}
