package gate

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/sony/gobreaker/v2"

	"github.com/kooworker/kooworker/tasks"
)

const (
	// window is how far back the breaker counts.
	window = 10 * time.Second
	// minCalls is the smallest number of calls that opens the breaker if half of
	// them failed.
	minCalls = 20
	// systemicFailures is the number of answers in a row that opens the breaker if
	// they are all unauthorized, or all misrouted: both affect every task alike.
	systemicFailures = 3
	// goodProbes is the number of good probes in a row that closes the breaker.
	goodProbes = 3
	// minProbeDelay and maxProbeDelay bound the delay before a probe. Delays double
	// from the first to the second, and each is up to half as long again or up to
	// half shorter, at random. No delay is shorter than minProbeDelay for each live
	// worker.
	minProbeDelay = time.Second
	maxProbeDelay = time.Minute
)

// breaker decides whether KooDrive is in a state to be called. The gate's lock
// guards it.
//
// gobreaker counts and keeps the states. Two things are done here instead:
//
//   - gobreaker's open state lasts for a constant time, but the delays between
//     probes should grow. So that time is set to a nanosecond, and the breaker
//     here decides when a probe is due.
//   - gobreaker counts a call at its start, so a timeout longer than the window
//     would never count. So gobreaker learns of an ordinary call only when the
//     call has ended. A probe is announced before its call, which makes gobreaker
//     half-open.
type breaker struct {
	cfg      Config
	cb       *gobreaker.TwoStepCircuitBreaker[struct{}]
	delays   *backoff.ExponentialBackOff
	onClosed func(at time.Time) // called when the breaker has closed again

	live         int
	state        State
	since        time.Time    // when it closed last, or stopped being closed
	reason       tasks.Reason // why it is not closed
	lastFailure  tasks.Reason
	streak       int       // failures since the last one with another reason; a success does not reset it
	failingSince time.Time // when the failures in a row began; zero after a success
	generation   uint64    // counts changes of state
	nextProbeAt  time.Time // unless closed
	probing      bool
	probes       uint64
}

func newBreaker(cfg Config, onClosed func(at time.Time)) *breaker {
	b := &breaker{
		delays: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(minProbeDelay),
			backoff.WithRandomizationFactor(0.5),
			backoff.WithMultiplier(2),
			backoff.WithMaxInterval(maxProbeDelay),
			backoff.WithMaxElapsedTime(0), // never give up
		),
		cfg: cfg, onClosed: onClosed, live: 1, since: time.Now(),
	}
	b.cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:   goodProbes,
		Interval:      window,
		BucketPeriod:  window / 10,     // the step in which it moves on
		Timeout:       time.Nanosecond, // 0 would mean a minute
		ReadyToTrip:   b.readyToTrip,
		IsExcluded:    func(err error) bool { return errors.Is(err, errNeutral) },
		OnStateChange: func(_ string, _, to State) { b.stateChanged(to) },
	})
	return b
}

// readyToTrip reports whether the breaker must open. gobreaker calls it after
// each failure.
func (b *breaker) readyToTrip(n gobreaker.Counts) bool {
	failures, inARow := int(n.TotalFailures), int(n.ConsecutiveFailures)
	ended := failures + int(n.TotalSuccesses)
	return inARow >= b.cfg.ConsecutiveFailures && time.Since(b.failingSince) >= b.cfg.MinFailureTime ||
		ended >= minCalls && 2*failures >= ended ||
		// The streak knows neither the window nor successes, and gobreaker's count
		// knows no reason.
		isSystemic(b.lastFailure) && min(inARow, b.streak) >= systemicFailures
}

// blocked reports whether no call may be made now, and until when. The time is
// zero if it depends on a probe that is under way.
func (b *breaker) blocked(now time.Time) (until time.Time, blocked bool) {
	switch {
	case b.state == Closed:
		return time.Time{}, false
	case b.probing:
		return time.Time{}, true
	default:
		return b.nextProbeAt, now.Before(b.nextProbeAt)
	}
}

// admit writes the breaker's generation into a permit. If the breaker is not
// closed, the permit is for a probe. The caller must have called blocked before.
func (b *breaker) admit(p *Permit) {
	if b.state != Closed {
		done, err := b.cb.Allow()
		if err != nil { // only if the clock has not moved for a nanosecond
			done = func(error) {}
		}
		b.probing, p.probe = true, done
	}
	p.generation = b.generation // Allow may have changed it
}

// report counts the answer of a call, and returns whether the answer belongs to an
// outage rather than to its task.
func (b *breaker) report(now time.Time, p *Permit, reason tasks.Reason) bool {
	h := healthOf(reason)
	stale := p.generation != b.generation // the call began before the breaker changed: no news
	switch {
	case stale:
	case p.probe != nil:
		b.probes++
		b.probing = false
		b.countAnswer(h, reason)
		if p.probe(h.err()); p.generation == b.generation { // still half-open
			b.nextProbeAt = now.Add(b.probeDelay(h == success))
		}
	default:
		b.countAnswer(h, reason)
		if done, refused := b.cb.Allow(); refused == nil {
			done(h.err())
		}
	}
	return h == failure && (stale || b.state != Closed)
}

// cancel takes back the admission of a call that was not made.
func (b *breaker) cancel(p *Permit) {
	if p.probe != nil && p.generation == b.generation {
		b.probing = false
		p.probe(errNeutral)
	}
}

// countAnswer updates the counts of readyToTrip. It must be called before gobreaker
// learns of the answer, since gobreaker then calls readyToTrip.
func (b *breaker) countAnswer(h health, reason tasks.Reason) {
	switch {
	case h == success:
		b.failingSince = time.Time{}
	case h != failure:
	case reason == b.lastFailure:
		b.streak++
	default:
		b.lastFailure, b.streak = reason, 1
	}
	if h == failure && b.failingSince.IsZero() {
		b.failingSince = time.Now()
	}
}

// stateChanged takes over gobreaker's new state.
func (b *breaker) stateChanged(to State) {
	now, from := time.Now(), b.state
	b.state = to
	b.generation++
	switch to {
	case Open:
		b.reason = b.lastFailure
		if from == Closed {
			if now.Sub(b.since) >= maxProbeDelay {
				b.delays.Reset() // a new outage; in the same outage the delays keep growing
			}
			b.since = now
		}
		b.nextProbeAt = now.Add(b.probeDelay(false))
	case HalfOpen:
	case Closed:
		b.since = now
		b.onClosed(now)
	}
	b.cfg.OnChange(from, to, b.reason)
	if to == Closed {
		b.reason = ""
	}
}

// probeDelay returns the time until the next probe. After a good probe it is the
// shortest delay.
func (b *breaker) probeDelay(good bool) time.Duration {
	shortest := minProbeDelay * time.Duration(b.live)
	if good {
		return shortest
	}
	return max(b.delays.NextBackOff(), shortest)
}
