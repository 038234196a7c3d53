package pipeline

import (
	"fmt"
	"math"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Backoff is the exponential delay between attempts.
type Backoff struct {
	// First is the delay after the first attempt. At least 1 s, since asynq
	// keeps whole seconds. Default 2 s.
	First time.Duration
	// Factor multiplies the delay after each further attempt. At least 1. Default 2.
	Factor float64
	// Jitter is the share by which a delay may be shorter or longer, at random: 0.5
	// means between 0.5 and 1.5 times the delay. 0 to less than 1. Default 0.5.
	Jitter float64
	// Cap bounds the delay before the jitter. Default 15 min.
	Cap time.Duration
}

// DefaultBackoff returns the defaults.
func DefaultBackoff() Backoff {
	return Backoff{First: 2 * time.Second, Factor: 2, Jitter: 0.5, Cap: 15 * time.Minute}
}

func (b Backoff) validate() error {
	switch {
	case b.First < time.Second:
		return fmt.Errorf("first delay is %s; want at least 1s, since the queue keeps whole seconds", b.First)
	case math.IsNaN(b.Factor) || b.Factor < 1 || b.Factor > 100:
		return fmt.Errorf("factor is %g; want 1 to 100", b.Factor)
	case math.IsNaN(b.Jitter) || b.Jitter < 0 || b.Jitter >= 1:
		return fmt.Errorf("jitter is %g; want 0 to less than 1", b.Jitter)
	case b.Cap < b.First:
		return fmt.Errorf("cap is %s; want at least the first delay, %s", b.Cap, b.First)
	case b.Cap > 24*time.Hour:
		return fmt.Errorf("cap is %s; want at most 24h", b.Cap)
	}
	return nil
}

// Delay returns the time to wait after the given attempt, counted from 1.
//
// cenkalti's ExponentialBackOff keeps the count itself, but here the count is in
// Redis. So Delay makes a new one that starts at the interval of this attempt, and
// takes its first delay.
func (b Backoff) Delay(attempt int) time.Duration {
	interval := float64(b.First) * math.Pow(b.Factor, float64(max(attempt-1, 0)))
	exp := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Duration(min(interval, float64(b.Cap)))),
		backoff.WithRandomizationFactor(b.Jitter),
		backoff.WithMultiplier(b.Factor),
		backoff.WithMaxInterval(b.Cap),
		backoff.WithMaxElapsedTime(0),
	)
	return exp.NextBackOff()
}
