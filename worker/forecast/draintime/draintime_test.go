package draintime

import (
	"math"
	"testing"
	"time"
)

func TestModel(t *testing.T) {
	t.Parallel()
	const million = 1_000_000
	for name, tc := range map[string]struct {
		model   Model
		tasks   int64
		rate    float64
		seconds float64
	}{
		"nothing is known":               {Model{}, million, 0, 0},
		"200 calls a second":             {Model{Quota: 200}, million, 200, 5000}, // 83 minutes
		"half of the attempts fail":      {Model{Quota: 200, FailureShare: 0.5}, million, 100, 10_000},
		"each attempt makes 2 calls":     {Model{Quota: 200, CallsPerAttempt: 2}, million, 100, 10_000},
		"both":                           {Model{Quota: 200, CallsPerAttempt: 2, FailureShare: 0.2}, million, 80, 12_500},
		"few attempts make a call":       {Model{Quota: 200, CallsPerAttempt: 0.25}, million, 800, 1250},
		"slots without a latency":        {Model{Slots: 64}, million, 0, 0},
		"a latency without slots":        {Model{Latency: time.Second}, million, 0, 0},
		"the latency limits":             {Model{Quota: 200, Slots: 64, Latency: time.Second}, million, 64, 15_625},
		"the quota limits":               {Model{Quota: 200, Slots: 64, Latency: 50 * time.Millisecond}, million, 200, 5000},
		"failures cost slots as well":    {Model{Slots: 64, Latency: time.Second, FailureShare: 0.5}, million, 32, 31_250},
		"the machine limits":             {Model{Slots: 64, Latency: time.Millisecond, AttemptsPerSecond: 8000}, million, 8000, 125},
		"failures cost the machine, too": {Model{AttemptsPerSecond: 8000, FailureShare: 0.5}, million, 4000, 250},
		"one task":                       {Model{Slots: 64, Latency: 10 * time.Second}, 1, 6.4, 10},
		"no task":                        {Model{Quota: 200}, 0, 200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const rounding = 1e-9
			if got := tc.model.Rate(); math.Abs(got-tc.rate) > rounding {
				t.Errorf("%+v: %g tasks a second; want %g", tc.model, got, tc.rate)
			}
			if got := tc.model.Seconds(tc.tasks); math.Abs(got-tc.seconds) > rounding*tc.seconds {
				t.Errorf("%+v: %d tasks take %g s; want %g", tc.model, tc.tasks, got, tc.seconds)
			}
		})
	}
}
