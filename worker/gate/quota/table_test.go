package quota

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// What a fleet reaches with quotas of many kinds, in nine of ten runs at least.
func TestEstimate_ManyRuns(t *testing.T) {
	t.Parallel()
	type api = func(int64, *rand.Rand) bool
	offset := func(seed uint64) int64 { return int64(seed * 7919 % 60_000) }
	window := func(n int, l time.Duration) func(uint64) api {
		return func(seed uint64) api { return fixedWindow(n, l, offset(seed)) }
	}
	always := func(f func() api) func(uint64) api { return func(uint64) api { return f() } }
	later := func(a, b float64) func(int64) float64 {
		return func(s int64) float64 {
			if s < 60 {
				return a
			}
			return b
		}
	}
	const seeds = 5
	minute := Limit{Calls: 3000, Window: time.Minute}
	for _, row := range []struct {
		name    string
		api     func(seed uint64) api
		allows  float64
		share   float64 // of what it allows, at least
		refused float64 // share of the calls, at most
		from    int
		to      int
		latency int64
		strange float64
		told    Limit
	}{
		{name: "bucket 200/s, room for 20", api: always(func() api { return bucket(steady(200), 20) }), allows: 200, share: .97, refused: .01},
		{name: "bucket 200/s, calls take 300 ms", api: always(func() api { return bucket(steady(200), 20) }), allows: 200, share: .97, refused: .02, latency: 300},
		{name: "bucket 200/s, calls take 2 s", api: always(func() api { return bucket(steady(200), 20) }), allows: 200, share: .95, refused: .08, latency: 2000, from: 60},
		{name: "window of 200 a second", api: window(200, time.Second), allows: 200, share: .95, refused: .02},
		{name: "window of 200 a second, told", api: window(200, time.Second), allows: 200, share: .98, refused: .002, told: Limit{Calls: 200, Window: time.Second}},
		{name: "window of 3,000 a minute", api: window(3000, time.Minute), allows: 50, share: .95, refused: .02, from: 180, to: 480},
		{name: "window of 3,000 a minute, told", api: window(3000, time.Minute), allows: 50, share: .98, refused: .002, told: minute, from: 60, to: 360},
		{name: "window of 1,000 in 10 s", api: window(1000, 10*time.Second), allows: 100, share: .9, refused: .06, from: 60, to: 160},
		{name: "window of 100 in 5 s", api: window(100, 5*time.Second), allows: 20, share: .9, refused: .06, from: 60, to: 160},
		{name: "window of 600 a minute", api: window(600, time.Minute), allows: 10, share: .93, refused: .03, from: 120, to: 420},
		{name: "sliding window of 200 a second", api: always(func() api { return slidingWindow(200, time.Second) }), allows: 200, share: .95, refused: .02},
		{name: "sliding window of 1,000 in 10 s", api: always(func() api { return slidingWindow(1000, 10*time.Second) }), allows: 100, share: .9, refused: .06, from: 60, to: 160},
		{name: "sliding window of 3,000 a minute", api: always(func() api { return slidingWindow(3000, time.Minute) }), allows: 50, share: .93, refused: .02, from: 120, to: 420},
		{name: "bucket 10/s, room for 10", api: always(func() api { return bucket(steady(10), 10) }), allows: 10, share: .95, refused: .05, to: 120},
		{name: "bucket 1/s, room for 5", api: always(func() api { return bucket(steady(1), 5) }), allows: 1, share: .9, refused: .2, to: 230},
		{name: "bucket 2,000/s, room for 100", api: always(func() api { return bucket(steady(2000), 100) }), allows: 2000, share: .97, refused: .01, to: 60},
		{name: "strangers, bucket", api: always(func() api { return bucket(steady(200), 20) }), allows: 140, strange: 60, share: .93, refused: .07},
		{name: "strangers, window of a second", api: window(200, time.Second), allows: 140, strange: 60, share: .9, refused: .02},
		{name: "strangers, window of a minute", api: window(3000, time.Minute), allows: 35, strange: 15, share: .9, refused: .03, from: 120, to: 420},
		{name: "halves", api: always(func() api { return bucket(later(200, 100), 20) }), allows: 100, from: 63, share: .95, refused: .03},
		{name: "doubles", api: always(func() api { return bucket(later(200, 400), 20) }), allows: 400, from: 88, to: 100, share: .95, refused: .03},
		{name: "a fifth is refused", api: always(func() api { return refusing(.2, unlimited) }), allows: 4266 * .8, share: .95, refused: .21},
		{name: "1 % is refused", api: always(func() api { return refusing(.01, unlimited) }), allows: 4266 * .99, share: .95, refused: .02},

		{name: "refuses all for 3 s", api: always(func() api { return refusingFor(5*time.Second, 3*time.Second, unlimited) }), allows: 4266, share: .95, refused: .01},
		{name: "refuses all for 10 s, after 1 s", api: always(func() api { return refusingFor(time.Second, 10*time.Second, unlimited) }), allows: 4266, share: .95, refused: .01},
		{name: "refuses all for 10 s, bucket 200/s", api: always(func() api { return refusingFor(time.Second, 10*time.Second, bucket(steady(200), 20)) }), allows: 200, share: .95, refused: .01},
		{name: "a fifth is refused, slow calls", api: always(func() api { return refusing(.2, unlimited) }), allows: 4266 * .8, share: .93, refused: .21, latency: 300},
		{name: "a fifth is refused, bucket 200/s", api: always(func() api { return refusing(.2, bucket(steady(200), 20)) }), allows: 200, share: .85, refused: .5},
		{name: "1 % is refused, bucket 2,000/s", api: always(func() api { return refusing(.01, bucket(steady(2000), 100)) }), allows: 2000, share: .93, refused: .03},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var shares, refusals []float64
			bad := 0
			for _, workers := range []int{1, 5, 20} {
				for seed := range uint64(seeds) {
					f := &fleet{
						api: row.api(seed), workers: workers, latency: cmp.Or(row.latency, 15), demand: 4266 / float64(workers),
						strange: row.strange, told: row.told,
					}
					from, to := cmp.Or(row.from, 30), cmp.Or(row.to, 90)
					f.run(seed, to)
					p, r := f.share(row.allows, from, to)
					shares, refusals = append(shares, p), append(refusals, r)
					if p < row.share || r > row.refused {
						bad++
						t.Logf("%d workers, seed %d: %.1f %% of the quota, %.2f %% refused", workers, seed, 100*p, 100*r)
					}
				}
			}
			slices.Sort(shares)
			slices.Sort(refusals)
			n := len(shares)
			t.Logf("%-36s of the quota: least %5.1f, median %5.1f %%; refused: median %5.2f, most %5.2f %%",
				row.name, 100*shares[0], 100*shares[n/2], 100*refusals[n/2], 100*refusals[n-1])
			if bad > n/10 {
				t.Errorf("%d of %d runs reached less than %g %% of the quota, or more than %g %% were refused", bad, n, 100*row.share, 100*row.refused)
			}
		})
	}
}
