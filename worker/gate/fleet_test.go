package gate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// fakeFleet is a fleet in memory. What a worker sees of it is up to lag old, as
// it is with a loop that asks Redis.
type fakeFleet struct {
	mu      sync.Mutex
	live    int
	was     int // live, until changed + lag
	changed time.Time
	lag     time.Duration
	book    Book
	away    bool
	told    []News // all of it
	toldAt  []time.Time
	news    *News // of told, what is older than lag
	merged  int   // how many of told are in news
}

var _ Fleet = (*fakeFleet)(nil)

func newFakeFleet() *fakeFleet { return &fakeFleet{live: 1, was: 1} }

func (f *fakeFleet) set(live int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.was, f.live, f.changed = f.live, live, time.Now()
}

// Exchange implements Fleet. A round trip takes 2 ms.
func (f *fakeFleet) Exchange(ctx context.Context, a Ask) (Grant, error) {
	if !elapse(ctx, time.Millisecond) {
		return Grant{}, ctx.Err()
	}
	f.mu.Lock()
	if f.away {
		f.mu.Unlock()
		return Grant{}, errors.New("Redis is away")
	}
	g := f.book.Exchange(time.Now(), a)
	f.mu.Unlock()
	elapse(ctx, time.Millisecond)
	return g, nil
}

// Tell implements Fleet.
func (f *fakeFleet) Tell(n News) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told, f.toldAt = append(f.told, n), append(f.toldAt, time.Now())
}

// Snapshot implements Fleet.
func (f *fakeFleet) Snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Snapshot{Live: f.live}
	if time.Since(f.changed) < f.lag {
		s.Live = f.was
	}
	for f.merged < len(f.told) && time.Since(f.toldAt[f.merged]) >= f.lag {
		f.news = f.with(f.told[f.merged])
		f.merged++
	}
	s.News = f.news
	return s
}

// with returns the news with some more, as the fleet keeps them in Redis: the latest
// success of each kind, and the failures since then.
func (f *fakeFleet) with(more News) *News {
	all := News{}
	if f.news != nil {
		all = *f.news
	}
	next := &News{Failures: slices.Concat(all.Failures, more.Failures)}
	latest := make(map[Kind]Success)
	for _, s := range slices.Concat(all.Successes, more.Successes) {
		if s.Ended.After(latest[s.Kind].Ended) {
			latest[s.Kind] = s
		}
	}
	for _, s := range latest {
		next.Successes = append(next.Successes, s)
	}
	next.Failures = slices.DeleteFunc(next.Failures, func(x Failure) bool {
		s := latest[x.Kind]
		return isSuccess(s.Reason) && x.At.Before(s.Began)
	})
	next.Failures = next.Failures[max(0, len(next.Failures)-2*manyUsers):]
	return next
}
