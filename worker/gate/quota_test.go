package gate

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// api is what an API allows, in code that shares nothing with the gate's.
type api interface {
	allows(now time.Time, user string) (ok bool, a Answer)
}

// bucketQuota is a token bucket.
type bucketQuota struct {
	rate, room float64
	retryAfter time.Duration
	tokens     float64
	at         time.Time
	change     func(age time.Duration) float64 // the rate later on
	began      time.Time
}

func (q *bucketQuota) allows(now time.Time, _ string) (bool, Answer) {
	if q.at.IsZero() {
		q.at, q.tokens, q.began = now, q.room, now
	}
	if q.change != nil {
		q.rate = q.change(now.Sub(q.began))
	}
	q.tokens = min(q.room, q.tokens+now.Sub(q.at).Seconds()*q.rate)
	q.at = now
	if q.tokens < 1 {
		return false, Answer{RetryAfter: q.retryAfter}
	}
	q.tokens--
	return true, Answer{}
}

// windowQuota is a fixed window.
type windowQuota struct {
	calls  int
	length time.Duration
	offset time.Duration // of the windows
	told   string        // by what KooDrive says that it counts; "" if it says nothing
	window int64
	used   int
}

func (q *windowQuota) allows(now time.Time, _ string) (bool, Answer) {
	window := now.Add(-q.offset).UnixNano() / int64(q.length)
	if window != q.window {
		q.window, q.used = window, 0
	}
	if q.used >= q.calls {
		if q.told != "" {
			return false, Answer{Limit: quota.Limit{Calls: q.calls, Window: q.length, Dimension: q.told}}
		}
		return false, Answer{}
	}
	q.used++
	return true, Answer{}
}

// limitedUsers refuses some users always.
type limitedUsers struct{ percent int }

func (q limitedUsers) allows(_ time.Time, user string) (bool, Answer) {
	n, _ := strconv.Atoi(user)
	return n%100 >= q.percent, Answer{RetryAfter: 30 * time.Second}
}

// troubled refuses every call for some time, a second after the first one.
type troubled struct {
	api
	until, began time.Time
}

func (q *troubled) allows(now time.Time, user string) (bool, Answer) {
	if q.began.IsZero() {
		q.began = now.Add(time.Second)
		q.until = now.Add(11 * time.Second)
	}
	if !now.Before(q.began) && now.Before(q.until) {
		return false, Answer{}
	}
	return q.api.allows(now, user)
}

type noQuota struct{}

func (noQuota) allows(time.Time, string) (bool, Answer) { return true, Answer{} }

// drain is how a fleet gets on with an API.
type drain struct {
	api     api
	strange float64 // calls a second of strangers
	workers int
	callers int // of each worker
	rate    float64
	users   int
	mixed   bool // unbinds and releases
	seed    uint64

	mu      sync.Mutex
	start   time.Time
	passed  []int // by tenth of a second
	refused []int
	charged int
	back    int // tasks that were put back
	gates   []*Gate
}

func (d *drain) call(ctx context.Context, r *rand.Rand, user string) Answer {
	half := time.Duration(5+r.IntN(6)) * time.Millisecond
	elapse(ctx, half)
	d.mu.Lock()
	now := time.Now()
	ok, a := d.api.allows(now, user)
	i := int(now.Sub(d.start) / (100 * time.Millisecond))
	for len(d.passed) <= i {
		d.passed, d.refused = append(d.passed, 0), append(d.refused, 0)
	}
	if ok {
		d.passed[i]++
		a.Reason = tasks.OK
	} else {
		d.refused[i]++
		a.Reason = tasks.Throttled
	}
	d.mu.Unlock()
	elapse(ctx, half)
	return a
}

func (d *drain) run(t *testing.T, dur time.Duration) {
	t.Helper()
	d.start = time.Now()
	fleet := newFakeFleet()
	fleet.live = d.workers
	ctx, cancel := context.WithTimeout(t.Context(), dur)
	defer cancel()
	var wg sync.WaitGroup
	if d.strange > 0 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(d.seed, 99)) //nolint:gosec // a test
			for elapse(ctx, time.Duration(r.ExpFloat64()*float64(time.Second)/d.strange)) {
				d.mu.Lock()
				d.api.allows(time.Now(), "")
				d.mu.Unlock()
			}
		})
	}
	for w := range d.workers {
		cfg := Config{Fleet: fleet, Rate: d.rate, Jitter: 2 * time.Second}
		if d.workers == 1 && d.seed%2 == 1 {
			cfg.Fleet = nil
		}
		g, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		d.gates = append(d.gates, g)
		if cfg.Fleet != nil {
			wg.Go(func() { g.Pace(ctx) })
		}
		for c := range d.callers {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(d.seed, uint64(w*1000+c))) //nolint:gosec // a test
				kind := Unbind
				if d.mixed && c%2 == 1 {
					kind = Release
				}
				for ctx.Err() == nil {
					if g.Holds(kind) {
						elapse(ctx, time.Duration(80+r.IntN(40))*time.Millisecond)
						continue
					}
					user := strconv.Itoa(r.IntN(d.users))
					p, refusal := g.Acquire(ctx, Call{Kind: kind, User: user, Target: "x"})
					if refusal != nil {
						d.mu.Lock()
						d.back++
						d.mu.Unlock()
						elapse(ctx, time.Millisecond)
						continue
					}
					a := d.call(ctx, r, user)
					refusal = p.Report(ctx, a)
					if a.Reason == tasks.Throttled && refusal == nil {
						d.charged++
					}
				}
			})
		}
	}
	wg.Wait()
	for _, g := range d.gates {
		g.Stop()
	}
}

// sum adds the tenths of a second between two times.
func sum(all []int, from, to time.Duration) (n int) {
	for i := int(from / (100 * time.Millisecond)); i < min(int(to/(100*time.Millisecond)), len(all)); i++ {
		n += all[i]
	}
	return n
}

// rowOf is a row of the table: what a fleet reaches with a quota.
type rowOf struct {
	name    string
	workers []int
	api     func() api
	allows  float64       // calls a second that are left to the fleet, at the end of the run
	share   float64       // of that, at least
	refused float64       // share of the calls, at most
	from    time.Duration // the share is measured from then on
	to      time.Duration
	strange float64
	rate    float64
	users   int
	callers int // of each worker; default: 64
	mixed   bool
}

// The table of what is reached. What is reached before is for learning.
func TestQuota_Table(t *testing.T) { //nolint:tparallel // two rows are measured before the others
	t.Parallel()
	const s = time.Second
	bucket := func(rate, room float64) func() api {
		return func() api { return &bucketQuota{rate: rate, room: room} }
	}
	changes := func(later float64) func() api {
		return func() api {
			return &bucketQuota{rate: 200, room: 20, change: func(age time.Duration) float64 {
				if age > 60*s {
					return later
				}
				return 200
			}}
		}
	}
	window := func(calls int, length time.Duration, told string) func() api {
		const begins = 30 * s
		return func() api { return &windowQuota{calls: calls, length: length, offset: begins, told: told} }
	}
	rows := []rowOf{
		{name: "bucket 200/s, room for 20, silent", workers: []int{1, 3, 20}, api: bucket(200, 20), allows: 200, share: .97, refused: .01},
		{name: "the same, --rate 200", workers: []int{1, 3, 20}, api: bucket(200, 20), allows: 200, share: .98, refused: .001, rate: 200},
		{name: "window of 200 a second, silent", workers: []int{1, 3, 20}, api: window(200, s, ""), allows: 200, share: .95, refused: .02},
		{name: "window of 200 a second, told", workers: []int{1, 3, 20}, api: window(200, s, "api"), allows: 200, share: .98, refused: .002},
		{name: "window of 3,000 a minute, silent", workers: []int{1, 5, 20}, api: window(3000, 60*s, ""), allows: 50, share: .95, refused: .02, to: 330 * s},
		{name: "window of 3,000 a minute, told", workers: []int{1, 5, 20}, api: window(3000, 60*s, "api"), allows: 50, share: .98, refused: .002, to: 330 * s},
		{name: "window of 200 a second for all kinds, told", workers: []int{3}, api: window(200, s, "user"), allows: 200, share: .98, refused: .002, mixed: true},
		{name: "bucket 200/s for all kinds, silent", workers: []int{3}, api: bucket(200, 20), allows: 200, share: .95, refused: .02, mixed: true},
		{name: "bucket 10/s, room for 10", workers: []int{1, 20}, api: bucket(10, 10), allows: 10, share: .95, refused: .05, to: 120 * s},
		{name: "bucket 2,000/s, room for 100", workers: []int{1, 5, 20}, api: bucket(2000, 100), allows: 2000, share: .97, refused: .01},
		{
			name: "bucket 500/s, room for 50, Retry-After: 1", workers: []int{3}, allows: 500, share: .97, refused: .01,
			api: func() api { return &bucketQuota{rate: 500, room: 50, retryAfter: s} },
		},
		{name: "strangers use 30 % of bucket 200/s", workers: []int{5}, api: bucket(200, 20), allows: 140, share: .95, refused: .02, strange: 60, to: 150 * s},
		{name: "halves at 60 s: from 63 s on", workers: []int{5}, api: changes(100), allows: 100, share: .95, refused: .03, from: 63 * s, to: 90 * s},
		{name: "doubles at 60 s: from 88 s on", workers: []int{5}, api: changes(400), allows: 400, share: .95, refused: .03, from: 88 * s, to: 100 * s},
		{name: "never refuses", workers: []int{1, 3}, api: func() api { return noQuota{} }, refused: 0, to: 45 * s, callers: 16},
		{name: "refuses all from 1 s to 11 s", workers: []int{1}, api: func() api { return &troubled{api: noQuota{}} }, share: .95, refused: .01, to: 45 * s, users: 100_000, callers: 16},
		{name: "the same, and bucket 200/s", workers: []int{3}, api: func() api { return &troubled{api: bucket(200, 20)()} }, allows: 200, share: .97, refused: .02},
		// Once in 40 runs the first refusals look like a quota, which takes half a minute
		// to unlearn.
		{name: "1 % of the users are always refused", workers: []int{1, 3}, api: func() api { return limitedUsers{1} }, share: .95, refused: 1, from: 50 * s, to: 90 * s, users: 2000, callers: 16},
		{name: "20 % of the users are always refused", workers: []int{1, 3}, api: func() api { return limitedUsers{20} }, share: .95, refused: 1, from: 50 * s, to: 90 * s, users: 2000, callers: 16},
	}
	lines := make([][]string, len(rows))
	alone := make(map[int]float64) // calls a second that pass without a quota, by workers
	row := func(t *testing.T, i int) {
		t.Helper()
		r := rows[i]
		lines[i] = make([]string, len(r.workers))
		for j, n := range r.workers {
			t.Run(fmt.Sprintf("%s, %d workers", r.name, n), func(t *testing.T) {
				// What passes without a quota is measured alone, and first.
				if r.allows > 0 || r.users > 0 {
					t.Parallel()
				}
				// The order in which callers run is left to chance, and once in some hundred
				// runs the answers look as if the quota had changed. A row counts as missed if
				// it is missed twice.
				measure := func(t *testing.T, seed uint64, missed func(string, ...any)) {
					t.Helper()
					from, to := cmp.Or(r.from, 30*s), cmp.Or(r.to, 90*s)
					// Sixty-four callers of twenty workers are more than any of these
					// quotas needs.
					d := &drain{api: r.api(), strange: r.strange, workers: n, callers: cmp.Or(r.callers, 64) / (1 + n/5), users: cmp.Or(r.users, 100_000), seed: seed, rate: r.rate, mixed: r.mixed}
					d.run(t, to)
					passed, refused := float64(sum(d.passed, from, to)), float64(sum(d.refused, from, to))
					second := passed / (to - from).Seconds()
					if r.allows == 0 && r.users == 0 {
						alone[n] = second
					}
					allows := cmp.Or(r.allows, alone[n])
					share, bad := second/allows, refused/(passed+refused)
					lines[i][j] = fmt.Sprintf("%-38s %2d workers: %5.1f %% of the quota, %5.2f %% refused; in the first 30 s: %5d passed, %4d refused; put back %d",
						r.name, n, share*100, bad*100, sum(d.passed, 0, 30*s), sum(d.refused, 0, 30*s), d.back)
					if d.charged > 0 {
						t.Errorf("%d charged; want none", d.charged)
					}
					if share < r.share || bad > r.refused {
						missed("%.1f %% of the quota, %.2f %% refused; want at least %g %%, and at most %g %%", share*100, bad*100, r.share*100, r.refused*100)
					}
				}
				again := false
				synctest.Test(t, func(t *testing.T) {
					measure(t, 2, func(format string, args ...any) { again = true; t.Logf(format, args...) })
				})
				if again {
					synctest.Test(t, func(t *testing.T) { measure(t, 3, t.Errorf) })
				}
			})
		}
	}
	t.Run("rows", func(t *testing.T) {
		for i := range rows {
			row(t, i)
		}
	})
	for _, l := range slices.Concat(lines...) {
		t.Log(l)
	}
}
