package simulator_test

import (
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// oracle grants calls as slowly and plainly as possible. It knows the whole past.
type oracle struct {
	quota   simulator.Quota
	start   time.Time
	limit   int
	granted []time.Time // fixed, sliding: since there is a limit
	credit  *big.Int    // bucket: what it holds, in calls times the period
	at      time.Time   // bucket: when it held that

	foreignGranted, foreignRefused int
}

func newOracle(q simulator.Quota, start time.Time) *oracle {
	o := &oracle{quota: q, start: start, at: start, limit: q.Limit, credit: new(big.Int)}
	o.fill()
	return o
}

func (o *oracle) size() *big.Int {
	calls := o.quota.Burst
	if calls == 0 {
		calls = o.limit
	}
	return new(big.Int).Mul(big.NewInt(int64(calls)), big.NewInt(int64(o.quota.Period)))
}

func (o *oracle) fill() { o.credit.Set(o.size()) }

// spill takes away what the bucket does not hold.
func (o *oracle) spill() {
	if o.credit.Cmp(o.size()) > 0 {
		o.fill()
	}
}

// gain lets time pass in the bucket.
func (o *oracle) gain(now time.Time) {
	if o.limit != simulator.NoLimit {
		o.credit.Add(o.credit, new(big.Int).Mul(big.NewInt(int64(now.Sub(o.at))), big.NewInt(int64(o.limit))))
		o.spill()
	}
	o.at = now
}

func (o *oracle) ask(now time.Time) bool {
	o.gain(now)
	if o.limit == simulator.NoLimit {
		return true
	}
	if o.quota.Shape == simulator.ShapeBucket {
		call := big.NewInt(int64(o.quota.Period))
		if o.credit.Cmp(call) < 0 {
			return false
		}
		o.credit.Sub(o.credit, call)
		return true
	}
	n := 0
	for _, at := range o.granted {
		counts := now.Sub(at) < o.quota.Period
		if o.quota.Shape == simulator.ShapeFixed {
			counts = now.UnixNano()/int64(o.quota.Period) == at.UnixNano()/int64(o.quota.Period)
		}
		if counts {
			n++
		}
	}
	if n >= o.limit {
		return false
	}
	o.granted = append(o.granted, now)
	return true
}

func (o *oracle) change(now time.Time, limit int) {
	o.gain(now)
	if o.limit == simulator.NoLimit { // what was used before is forgotten
		o.limit, o.granted = limit, nil
		o.fill()
	}
	if o.limit = limit; limit != simulator.NoLimit {
		o.spill()
	}
}

// passTo plays what happens after one time and up to another: first the changes of a
// moment, then the call of a stranger.
func (o *oracle) passTo(after, now time.Time) {
	type event struct {
		at     time.Time
		change bool
		limit  int
	}
	var events []event
	for _, c := range o.quota.Changes {
		events = append(events, event{o.start.Add(c.After), true, c.Limit})
	}
	for k := int64(1); o.quota.Foreign > 0; k++ {
		wait := new(big.Int).Mul(big.NewInt(k), big.NewInt(int64(o.quota.Period)))
		at := o.start.Add(time.Duration(wait.Div(wait, big.NewInt(int64(o.quota.Foreign))).Int64()))
		if at.After(now) {
			break
		}
		events = append(events, event{at: at})
	}
	for {
		next := -1
		for i, e := range events {
			if e.at.After(now) || !e.at.After(after) {
				continue
			}
			if next < 0 || e.at.Before(events[next].at) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		e := events[next]
		switch {
		case e.change:
			o.change(e.at, e.limit)
		case o.ask(e.at):
			o.foreignGranted++
		default:
			o.foreignRefused++
		}
		events = append(events[:next], events[next+1:]...)
	}
}

func drawQuota(t *rapid.T) simulator.Quota {
	q := simulator.Quota{
		Shape:  rapid.SampledFrom([]string{simulator.ShapeBucket, simulator.ShapeFixed, simulator.ShapeSliding}).Draw(t, "shape"),
		Limit:  rapid.IntRange(0, 12).Draw(t, "limit"),
		Period: rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second, time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "period"),
	}
	if q.Shape == simulator.ShapeBucket {
		q.Burst = rapid.IntRange(0, 5).Draw(t, "burst")
	}
	var at time.Duration
	for range rapid.IntRange(0, 3).Draw(t, "changes") {
		at += drawGap(t, q)
		if at <= 0 || len(q.Changes) > 0 && at <= q.Changes[len(q.Changes)-1].After {
			continue
		}
		q.Changes = append(q.Changes, simulator.QuotaChange{After: at, Limit: rapid.IntRange(simulator.NoLimit, 12).Draw(t, "then")})
	}
	if rapid.Bool().Draw(t, "strangers") {
		q.Foreign = rapid.IntRange(1, 15).Draw(t, "foreign")
	}
	return q
}

// drawGap draws a time between calls. It likes those at which something changes.
func drawGap(t *rapid.T, q simulator.Quota) time.Duration {
	exact := q.Period / time.Duration(max(q.Limit, 1))
	return rapid.OneOf(
		rapid.Just(time.Duration(0)),
		rapid.SampledFrom([]time.Duration{1, exact, exact + 1, max(exact-1, 0), q.Period, q.Period - 1}),
		rapid.Map(rapid.Int64Range(0, int64(q.Period)/4), func(n int64) time.Duration { return time.Duration(n) }),
		rapid.Map(rapid.Int64Range(0, 3*int64(q.Period)), func(n int64) time.Duration { return time.Duration(n) }),
	).Draw(t, "gap")
}

// listCall asks for a user's devices, and returns the answer.
func listCall(sim *simulator.Simulator, userID string, now time.Time, header ...string) *httptest.ResponseRecorder {
	return call(sim, http.MethodGet, "/device", userID, now, header...)
}

func call(sim *simulator.Simulator, method, path, userID string, now time.Time, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, prefix+path, http.NoBody)
	r.Header.Set("X-User-Id", userID)
	r.Header.Set("X-Date", now.UTC().Format("20060102T150405Z"))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	sim.ServeHTTP(w, r)
	return w
}

func TestQuota_LikeOracle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuota(t)
		// The clock does not begin with a window.
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 123456789, time.UTC)}
		sim, err := simulator.New(simulator.Config{Clock: c.Now, Quotas: []simulator.Quota{q}})
		if err != nil {
			t.Fatal(err)
		}
		o := newOracle(q, c.Now())
		var want simulator.QuotaCount
		for i := range rapid.IntRange(1, 60).Draw(t, "calls") {
			before := c.Now()
			c.Advance(drawGap(t, q))
			o.passTo(before, c.Now())
			status := http.StatusOK
			if o.ask(c.Now()) {
				want.Granted++
			} else {
				want.Refused++
				status = http.StatusTooManyRequests
			}
			if got := listCall(sim, user, c.Now()).Code; got != status {
				t.Fatalf("%v: call %d, after %v, is answered %d; want %d", q, i+1, c.Now().Sub(o.start), got, status)
			}
		}
		want.ForeignGranted, want.ForeignRefused = o.foreignGranted, o.foreignRefused
		if got := sim.Stats().Quotas["api"]; got != want {
			t.Errorf("%v: counts are %+v; want %+v", q, got, want)
		}
	})
}

// TestQuota_RetryAfterAuto waits as long as the quota says: then a call is granted, and
// a second before it is not.
func TestQuota_RetryAfterAuto(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuota(t)
		q.Foreign, q.RetryAfter = 0, simulator.RetryAfterAuto
		limit, last := q.Limit, time.Duration(0)
		for _, change := range q.Changes {
			limit, last = change.Limit, change.After
		}
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 123456789, time.UTC)}
		sim, err := simulator.New(simulator.Config{Clock: c.Now, Quotas: []simulator.Quota{q}})
		if err != nil {
			t.Fatal(err)
		}
		start := c.Now()
		for range rapid.IntRange(5, 40).Draw(t, "calls") {
			c.Advance(drawGap(t, q) / 8)
			w := listCall(sim, user, c.Now())
			if w.Code == http.StatusOK || c.Now().Sub(start) < last || limit == 0 {
				continue // the time is known only if no change is to come
			}
			wait, err := time.ParseDuration(w.Header().Get("Retry-After") + "s")
			if err != nil || wait < time.Second {
				t.Fatalf("%v: Retry-After is %q; want seconds, from 1", q, w.Header().Get("Retry-After"))
			}
			c.Advance(wait - time.Second)
			if early := listCall(sim, user, c.Now()); early.Code != http.StatusTooManyRequests {
				t.Fatalf("%v: a second before Retry-After: %v is over, the answer is %d; want 429", q, wait, early.Code)
			}
			c.Advance(time.Second)
			if got := listCall(sim, user, c.Now()).Code; got != http.StatusOK {
				t.Fatalf("%v: after Retry-After: %v the answer is %d; want 200", q, wait, got)
			}
		}
	})
}

// TestQuota_RetryAfterChange makes calls at some times. The last one is refused.
func TestQuota_RetryAfterChange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		quota string
		at    []time.Duration
		want  string // Retry-After
	}{
		// Half of a call is in the bucket when the limit doubles.
		{"bucket:6/h,burst=1,at=5m:x2", []time.Duration{0, 5 * time.Minute}, "150"},
		// Three and a half calls are in the bucket when there is room for two only.
		{"bucket:4/h,at=450s:x0.5", []time.Duration{0, 450 * time.Second, 450 * time.Second, 450 * time.Second}, "1800"},
		// Two of three calls must leave the window before there is room for one.
		{"sliding:3/h,at=10m:2", []time.Duration{0, time.Minute, 2 * time.Minute, 10 * time.Minute}, "3060"},
		{"sliding:3/h,at=10m:0", []time.Duration{0, 10 * time.Minute}, "3600"},
		{"fixed:3/h,at=10m:1", []time.Duration{0, 0, 10 * time.Minute}, "1200"}, // the clock begins at half past
		{"fixed:1/h,at=10m:none,at=11m:1", []time.Duration{0, 10 * time.Minute, 12 * time.Minute, 13 * time.Minute}, "1020"},
	} {
		c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)}
		start, sim := c.Now(), quotaSimulator(t, c.Now, tc.quota+",retry-after=auto")
		for i, at := range tc.at {
			c.Advance(at - c.Now().Sub(start))
			w := listCall(sim, user, c.Now())
			status, want := 200, ""
			if i == len(tc.at)-1 {
				status, want = 429, tc.want
			}
			if got := w.Header().Get("Retry-After"); w.Code != status || got != want {
				t.Errorf("%s: call %d is answered %d, Retry-After %q; want %d, %q", tc.quota, i+1, w.Code, got, status, want)
			}
		}
	}
}

// TestQuota_VirtualTime lets callers ask for 800 calls a second, at once, for 20 s.
func TestQuota_VirtualTime(t *testing.T) {
	t.Parallel()
	const callers, each, pause = 20, 800, 25 * time.Millisecond
	for text, want := range map[string]simulator.QuotaCount{
		"bucket:200/s,burst=20":           {Granted: 20 + 20*200 - 5}, // the last call is made at 19.975 s
		"fixed:200/s":                     {Granted: 20 * 200},
		"sliding:200/s":                   {Granted: 20 * 200},
		"fixed:3000/m":                    {Granted: 3000},
		"fixed:200/s,at=10s:x0.5":         {Granted: 10*200 + 10*100},
		"fixed:200/s,at=10s:x2":           {Granted: 10*200 + 10*400},
		"fixed:200/s,at=10s:0,at=15s:200": {Granted: 15 * 200},
		"fixed:200/s,at=10s:none":         {Granted: 10*200 + 10*800},
		// A window is used up after 0.225 s. Until then strangers make 14 calls in it, and
		// 13 in the first, before which they made none. One call of theirs is in the
		// window that begins at the end.
		"fixed:200/s,foreign=60": {Granted: 187 + 19*186, ForeignGranted: 13 + 19*14 + 1, ForeignRefused: 20*60 - 13 - 19*14 - 1},
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				sim := quotaSimulator(t, time.Now, text)
				var group sync.WaitGroup
				for range callers {
					group.Go(func() {
						for range each {
							listCall(sim, user, time.Now())
							time.Sleep(pause) //nolint:forbidigo // virtual time
						}
					})
				}
				group.Wait()
				got := sim.Stats().Quotas["api"]
				want.Refused = callers*each - want.Granted
				if got != want {
					t.Errorf("counts are %+v; want %+v", got, want)
				}
			})
		})
	}
}

// quotaSimulator returns a simulator with quotas and a clock.
func quotaSimulator(t *testing.T, clock func() time.Time, texts ...string) *simulator.Simulator {
	t.Helper()
	cfg := simulator.Config{Clock: clock}
	for _, text := range texts {
		q, err := simulator.ParseQuota(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Quotas = append(cfg.Quotas, q)
	}
	sim, err := simulator.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sim
}
