package locks_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// extender is Track or Renew.
type extender = func(context.Context, []locks.TrackRequest) ([]locks.Status, error)

// held is a lock with one holder. It counts the releases at KooDrive.
type held struct {
	id       tasks.LockID
	released atomic.Int64
}

// hold is how long a claim lasts. Its worker gives up after half of it.
const hold = 500 * time.Millisecond

// Holders track, renew and forget their locks while sweeps release stale ones. A
// lock whose holder's last accepted request was to renew it is never released.
func TestClaim_HoldersAndSweepsRace(t *testing.T) {
	t.Parallel()
	const holders, each, sweeps, rounds = 6, 8, 4, 120
	b := setup(t)
	all := make(map[tasks.LockID]*held)
	var work, sweeping sync.WaitGroup
	for i := range holders {
		var mine []*held
		for j := range each {
			l := &held{id: id(i*each + j)}
			all[l.id] = l
			mine = append(mine, l)
		}
		work.Go(func() { b.hold(t, mine, rounds) })
	}
	stop, cancel := context.WithCancel(t.Context())
	var total, answers tally
	for range sweeps {
		sweeping.Go(func() {
			for stop.Err() == nil && !t.Failed() {
				b.sweepAndRelease(t, all, &total, &answers)
			}
		})
	}
	work.Wait()
	cancel()
	sweeping.Wait()
	t.Logf("releases: %v; claims: %v", total.String(), answers.String())
	if total.of("released") == 0 || answers.of(string(locks.Renewed)) == 0 {
		t.Error("want releases, and claims that a renewal refused: nothing has raced")
	}
	// Every lock is live or forgotten now, so that no claim may succeed.
	b.sweepAndRelease(t, all, &total, &answers)
	for _, l := range all {
		if c, err := b.store.Claim(t.Context(), l.id, b.start, h); err != nil || c.Status == locks.Claimed {
			t.Errorf("%v: %s, %v; want the claim to be refused", l.id, c.Status, err)
		}
	}
}

// hold is a holder. After an answer that its lock is safe, no release may follow
// until its own next request.
func (b *bundle) hold(t *testing.T, mine []*held, rounds int) {
	t.Helper()
	safe := make(map[*held]int64) // the number of releases at that answer
	say := func(l *held, do extender, d time.Duration) {
		answers, err := do(t.Context(), []locks.TrackRequest{b.at(l.id, d)})
		if err != nil || len(answers) != 1 {
			t.Errorf("%v, %v", answers, err)
			return
		}
		switch answers[0] {
		case locks.Tracked, locks.Renewed, locks.Unchanged:
			if d > 0 {
				if _, already := safe[l]; !already {
					safe[l] = l.released.Load()
				}
			}
		default:
		}
	}
	kept := func(l *held) {
		if was, ok := safe[l]; ok && l.released.Load() != was {
			t.Errorf("%v was released; want it kept, since the last accepted request was to renew it", l.id)
		}
	}
	for range rounds {
		for _, l := range mine {
			kept(l)
			stale := -time.Duration(1+rand.IntN(1000)) * time.Second //nolint:gosec // any will do
			switch rand.IntN(6) {                                    //nolint:gosec // any will do
			case 0, 1:
				delete(safe, l)
				if _, err := b.store.Forget(t.Context(), []tasks.LockID{l.id}); err != nil {
					t.Error(err)
				}
				say(l, b.store.Track, stale)
			case 2:
				say(l, b.store.Renew, stale)
			case 3:
				say(l, b.store.Track, h)
			default:
				say(l, b.store.Renew, h)
			}
		}
	}
	for i, l := range mine { // in the end half of them are live, and the others forgotten
		kept(l)
		delete(safe, l)
		if i%2 == 0 {
			if _, err := b.store.Forget(t.Context(), []tasks.LockID{l.id}); err != nil {
				t.Error(err)
			}
			continue
		}
		for start := time.Now(); !t.Failed(); {
			say(l, b.store.Renew, h)
			if _, ok := safe[l]; ok {
				break
			}
			if time.Since(start) > time.Minute {
				t.Errorf("%v: renewing is refused for a minute; want it accepted when the claim has ended", l.id)
			}
		}
	}
	t.Cleanup(func() {
		for _, l := range mine {
			kept(l)
		}
	})
}

// sweepAndRelease is a sweep and its workers. Some of these crash, and some end
// their claims without a release.
func (b *bundle) sweepAndRelease(t *testing.T, all map[tasks.LockID]*held, total, answers *tally) {
	t.Helper()
	var stale []tasks.Lock
	for lock, err := range b.store.Stale(t.Context(), 0) {
		if err != nil {
			t.Error(err)
			return
		}
		stale = append(stale, lock)
	}
	if rand.IntN(4) > 0 { //nolint:gosec // any will do
		if err := b.store.MarkSwept(t.Context(), stale); err != nil {
			t.Error(err)
		}
	}
	for _, lock := range stale {
		deadline := time.Now().Add(hold / 2)
		c, err := b.store.Claim(t.Context(), lock.ID(), lock.ExpiresAt, hold)
		if err != nil {
			t.Error(err)
			return
		}
		answers.add(string(c.Status))
		if c.Status != locks.Claimed {
			continue
		}
		switch what := rand.IntN(8); { //nolint:gosec // any will do
		case what == 0:
			total.add("crashed")
		case what < 4 || time.Now().After(deadline):
			total.add("unclaimed")
			err = b.store.Unclaim(t.Context(), c)
		default:
			runtime.Gosched()
			all[lock.ID()].released.Add(1)
			total.add("released")
			err = b.store.Released(t.Context(), c)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
