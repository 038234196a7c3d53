package recovery

import (
	"testing"
	"time"
)

func TestContact(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_700_000_000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	for name, tc := range map[string]struct {
		answers []float64
		lasts   float64 // how long the contact lasts
		broken  []float64
		whole   []float64
	}{
		"new":            {answers: []float64{0}, lasts: 0, whole: []float64{-60, 0, 60}},
		"steady":         {answers: []float64{0, 1, 5, 10}, lasts: 10, whole: []float64{-60, 0, 10}},
		"a freeze":       {answers: []float64{0, 1, 41, 43}, lasts: 2, broken: []float64{0, 1, 40, 41}, whole: []float64{42}},
		"another master": {answers: []float64{10, 11, 5, 7}, lasts: 2, broken: []float64{4}, whole: []float64{6}},
		"a small step":   {answers: []float64{10, 9.5, 11}, lasts: 1, whole: []float64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c contact
			for _, s := range tc.answers {
				c.touch(at(s))
			}
			want := time.Duration(tc.lasts * float64(time.Second))
			if !c.lasts(want) || c.lasts(want+1) {
				t.Errorf("lasts %s; want %s", c.last.Sub(c.since), want)
			}
			for _, s := range tc.broken {
				if !c.brokenSince(at(s)) {
					t.Errorf("not broken since %g", s)
				}
			}
			for _, s := range tc.whole {
				if c.brokenSince(at(s)) {
					t.Errorf("broken since %g", s)
				}
			}
		})
	}
}
