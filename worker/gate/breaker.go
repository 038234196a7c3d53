package gate

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/sony/gobreaker/v2"

	"github.com/kooworker/kooworker/tasks"
)

// breaker decides whether KooDrive is in a state to be called. The gate's lock
// guards it.
//
// gobreaker counts and keeps the states. Two things are ours. Its open state
// lasts for a constant time, while pauses should grow: so it is set to next to
// nothing, and probes are paced here. And it dates a call by its start, so that
// a timeout longer than the window would never count: so it hears of an
// ordinary call only when that has ended. A probe announces itself first,
// which is what makes gobreaker half-open.
type breaker struct {
	cb       *gobreaker.TwoStepCircuitBreaker[struct{}]
	pauses   *backoff.ExponentialBackOff
	min      time.Duration // the shortest pause, for one worker
	calm     time.Duration // closed for that long, an outage is over
	alarms   uint32
	closed   func(at time.Time) // the breaker has closed again
	onChange func(from, to State, reason tasks.Reason)

	live    int
	state   State
	since   time.Time    // closed since, or not closed since
	reason  tasks.Reason // why it is not closed
	last    tasks.Reason // the last failure's
	bad     time.Time    // when the failures in a row began; zero after a success
	row     uint32       // the failures in a row with that reason
	era     uint64       // counts changes of state
	due     time.Time    // of the next probe, unless closed
	probing bool
	probes  uint64
}

func newBreaker(cfg Config, closed func(at time.Time)) *breaker {
	b := &breaker{
		pauses: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(cfg.ProbeMin),
			backoff.WithRandomizationFactor(0.5),
			backoff.WithMultiplier(2),
			backoff.WithMaxInterval(cfg.ProbeMax),
			backoff.WithMaxElapsedTime(0), // never give up
		),
		min: cfg.ProbeMin, calm: cfg.ProbeMax, alarms: uint32(cfg.Alarms), //nolint:gosec // at most maxCount
		closed: closed, onChange: cfg.OnChange, live: 1, since: time.Now(),
	}
	b.cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:   uint32(cfg.Probes), //nolint:gosec // at most maxCount
		Interval:      cfg.Window,
		BucketPeriod:  cfg.Window / windowBuckets,
		Timeout:       time.Nanosecond, // 0 would mean a minute
		ReadyToTrip:   b.tripper(cfg),
		IsExcluded:    func(err error) bool { return errors.Is(err, errNeither) },
		OnStateChange: func(_ string, _, to gobreaker.State) { b.change(State(to)) },
	})
	return b
}

// wait returns until when no call may be made, if so. The time is zero while
// it depends on a probe that is under way.
func (b *breaker) wait(now time.Time) (until time.Time, hold bool) {
	switch {
	case b.state == Closed:
		return time.Time{}, false
	case b.probing:
		return time.Time{}, true
	default:
		return b.due, now.Before(b.due)
	}
}

// pass is what a call holds from its admission to its answer.
type pass struct {
	era   uint64
	probe func(error) // gobreaker's, unless the breaker was closed
}

// enter admits a call; wait has agreed.
func (b *breaker) enter() pass {
	if b.state == Closed {
		return pass{era: b.era}
	}
	done, err := b.cb.Allow()
	if err != nil { // it would take a clock that stands still
		done = func(error) {}
	}
	b.probing = true
	return pass{era: b.era, probe: done}
}

// leave takes the answer of a call, and returns whether that belongs to an
// outage rather than to its task.
func (b *breaker) leave(now time.Time, p pass, reason tasks.Reason) bool {
	s := senseOf(reason)
	stale := p.era != b.era // begun before the breaker changed: no news
	switch {
	case stale:
	case p.probe != nil:
		b.probes++
		b.probing = false
		b.note(s, reason)
		if p.probe(s.err()); p.era == b.era { // half-open still
			b.due = now.Add(b.pause(s == success))
		}
	default:
		b.note(s, reason)
		if done, refused := b.cb.Allow(); refused == nil {
			done(s.err())
		}
	}
	return s == failure && (stale || b.state != Closed)
}

// cancel takes back an admission of which no use was made.
func (b *breaker) cancel(p pass) {
	if p.probe != nil && p.era == b.era {
		b.probing = false
		p.probe(errNeither)
	}
}

// note remembers what kind of failure there is, before gobreaker asks.
func (b *breaker) note(s sense, reason tasks.Reason) {
	switch {
	case s == success:
		b.bad = time.Time{}
	case s != failure:
	case reason == b.last:
		b.row++
	default:
		b.last, b.row = reason, 1
	}
	if s == failure && b.bad.IsZero() {
		b.bad = time.Now()
	}
}

// change follows gobreaker.
func (b *breaker) change(to State) {
	now, from := time.Now(), b.state
	b.state = to
	b.era++
	switch to {
	case Open:
		b.reason = b.last
		if from == Closed {
			if now.Sub(b.since) >= b.calm {
				b.pauses.Reset() // otherwise the outage goes on, and so do its pauses
			}
			b.since = now
		}
		b.due = now.Add(b.pause(false))
	case HalfOpen:
	case Closed:
		b.since = now
		b.closed(now)
	}
	b.onChange(from, to, b.reason)
	if to == Closed {
		b.reason = ""
	}
}

// pause returns the time until the next probe. After a good one that is the
// shortest.
func (b *breaker) pause(good bool) time.Duration {
	shortest := b.min * time.Duration(b.live)
	if good {
		return shortest
	}
	return max(b.pauses.NextBackOff(), shortest)
}
