package recovery

import (
	"testing"
	"time"
)

func TestRedisUptime(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_700_000_000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	for name, tc := range map[string]struct {
		answers []float64
		upFor   float64   // at the last answer
		down    []float64 // Redis was away since then
		up      []float64 // Redis was not away since then
	}{
		"new":            {answers: []float64{0}, upFor: 0, up: []float64{-60, 0, 60}},
		"steady":         {answers: []float64{0, 1, 5, 10}, upFor: 10, up: []float64{-60, 0, 10}},
		"a freeze":       {answers: []float64{0, 1, 41, 43}, upFor: 2, down: []float64{0, 1, 40, 41}, up: []float64{42}},
		"another master": {answers: []float64{10, 11, 5, 7}, upFor: 2, down: []float64{4}, up: []float64{6}},
		"a small step":   {answers: []float64{10, 9.5, 11}, upFor: 1, up: []float64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var u redisUptime
			for _, s := range tc.answers {
				u.answered(at(s))
			}
			want := time.Duration(tc.upFor * float64(time.Second))
			if !u.upFor(want) || u.upFor(want+1) {
				t.Errorf("up for %s; want %s", u.last.Sub(u.since), want)
			}
			for _, s := range tc.down {
				if !u.downSince(at(s)) {
					t.Errorf("downSince(%g) is false; want true", s)
				}
			}
			for _, s := range tc.up {
				if u.downSince(at(s)) {
					t.Errorf("downSince(%g) is true; want false", s)
				}
			}
		})
	}
}
