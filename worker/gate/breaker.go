package gate

import (
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/kooworker/kooworker/tasks"
)

const (
	// minProbeDelay and maxProbeDelay bound the delay before a probe. Delays double
	// from the first to the second, and each is up to half as long again or up to
	// half shorter, at random. No delay is shorter than minProbeDelay for each live
	// worker.
	minProbeDelay = time.Second
	maxProbeDelay = time.Minute
	// atFaultFor is how long a user counts as being at fault after the last failure.
	// It is longer than the longest delay between two attempts.
	atFaultFor = time.Hour
	// maxAtFault bounds how many users at fault are remembered.
	maxAtFault = 10_000
	// clockError bounds the error of the times in the news of the fleet.
	clockError = time.Second
	// tellEvery is the time between two successes of which the fleet is told.
	tellEvery = 250 * time.Millisecond
)

// breaker decides whether KooDrive is in a state to be called with one kind of
// calls. The gate's lock guards it. The package comment has its rules.
type breaker struct {
	kind   Kind
	gate   *Gate
	delays *backoff.ExponentialBackOff
	ramp   ramp

	rows map[tasks.Reason]*row // by class
	// atFault has users whose calls fail while those of others succeed, by when that
	// was last so.
	atFault *simplelru.LRU[userClass, time.Time]
	doubts  []*doubt
	toldAt  time.Time // when the fleet was told of a success

	state       State
	since       time.Time    // when it closed last, or stopped being closed
	reason      tasks.Reason // why it is not closed
	generation  uint64       // counts how often it opened or closed
	nextProbeAt time.Time    // unless closed
	lastProbeAt time.Time    // or when it opened
	probes      uint64
	inFlight    int
}

// userClass is a user, and the class of failures for which the user is at fault.
type userClass struct {
	user  string
	class tasks.Reason
}

func newBreaker(g *Gate, kind Kind) *breaker {
	atFault, err := simplelru.NewLRU[userClass, time.Time](maxAtFault, nil)
	if err != nil {
		panic(err) // only if the size is below 1
	}
	b := &breaker{
		kind: kind, gate: g, since: time.Now(),
		delays: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(minProbeDelay),
			backoff.WithRandomizationFactor(0.5),
			backoff.WithMultiplier(2),
			backoff.WithMaxInterval(maxProbeDelay),
			backoff.WithMaxElapsedTime(0), // never give up
		),
		rows:    make(map[tasks.Reason]*row),
		atFault: atFault,
	}
	for _, reason := range tasks.Reasons() {
		if class := classOf(reason); class != "" {
			b.rows[class] = &row{users: make(map[string]*failures)}
		}
	}
	return b
}

// blocked reports whether no call may be made now, and until when. The time is
// zero if it depends on a probe that is under way.
func (b *breaker) blocked(now time.Time) (until time.Time, blocked bool) {
	switch b.state {
	case Closed:
		return time.Time{}, false
	case HalfOpen:
		return time.Time{}, true
	default:
		return b.nextProbeAt, now.Before(b.nextProbeAt)
	}
}

// admit writes the breaker's generation into a permit. If the breaker is not
// closed, the permit is for a probe. The caller must have called blocked before.
func (b *breaker) admit(p *Permit) {
	if b.state != Closed {
		p.probe = true
		b.setState(HalfOpen)
	}
	p.generation = b.generation
	b.inFlight++
}

// cancel takes back the admission of a call that was not made. Another task may be
// the probe.
func (b *breaker) cancel(p *Permit) {
	b.inFlight--
	if p.probe && p.generation == b.generation {
		b.setState(Open)
	}
}

// report counts the answer of a call. It returns what the answer is about, or a
// doubt if that is not clear yet.
func (b *breaker) report(now time.Time, p *Permit, reason tasks.Reason, notSent bool) (about, *doubt) {
	b.inFlight--
	stale := p.generation != b.generation
	if p.probe && !stale {
		b.probes++
		b.lastProbeAt, b.nextProbeAt = now, now.Add(b.probeDelay())
		b.setState(Open)
	}
	if isSuccess(reason) || isVerdict(reason) {
		b.succeed(Success{Kind: b.kind, Reason: reason, User: p.call.User, Began: p.began, Ended: now})
	}
	class := classOf(reason)
	if class == "" {
		return theTask, nil
	}
	if p.probe && !stale && b.state != Closed {
		b.reason = reason
	}
	if !stale {
		b.fail(now, p.call, reason)
	}
	switch {
	case notSent, stale, b.state != Closed, b.gate.stopped:
		return anOutage, nil
	case b.isAtFault(now, p.call.User, class):
		return theTask, nil
	}
	d := &doubt{breaker: b, call: p.call, reason: reason, class: class, at: now, decided: make(chan struct{})}
	b.doubts = append(b.doubts, d)
	return 0, d
}

// fail counts a failure, and opens the breaker if there are too many.
func (b *breaker) fail(now time.Time, call Call, reason tasks.Reason) {
	class := classOf(reason)
	if b.isAtFault(now, call.User, class) {
		b.atFault.Add(userClass{call.User, class}, now)
		return
	}
	r := b.rows[class]
	if r.add(call.User, call.Target, now) {
		b.gate.cfg.Fleet.Tell(News{Failures: []Failure{{Kind: b.kind, Class: class, User: call.User, At: now}}})
	}
	if users, _ := b.count(now, class); users >= manyUsers {
		b.open(now, reason)
	}
}

// count returns how many distinct users and tasks have failed since the last
// success. Users at fault do not count.
func (b *breaker) count(now time.Time, class tasks.Reason) (users, targets int) {
	return b.rows[class].count(func(user string) bool { return b.isAtFault(now, user, class) })
}

// isAtFault reports whether a user is at fault for failures of this class.
func (b *breaker) isAtFault(now time.Time, user string, class tasks.Reason) bool {
	at, ok := b.atFault.Peek(userClass{user, class})
	return ok && now.Sub(at) < atFaultFor
}

// lastFailure returns when a call of the user failed last, zero if that is not known.
func (b *breaker) lastFailure(user string) time.Time {
	var last time.Time
	for class, r := range b.rows {
		at, _ := b.atFault.Peek(userClass{user, class})
		for _, at := range []time.Time{at, r.lastFailure(user)} {
			if at.After(last) {
				last = at
			}
		}
	}
	return last
}

// hasFailed reports whether a call of the user has failed since the breaker opened.
func (b *breaker) hasFailed(user string) bool { return b.lastFailure(user).After(b.since) }

// fewUsers is the number of users below which an outage may be theirs alone.
const fewUsers = 3

// hurry lets the next probe come early, if only few users' calls have failed and
// another user's task is here.
func (b *breaker) hurry(now time.Time, user string) {
	if b.state != Open || b.hasFailed(user) {
		return
	}
	early := b.lastProbeAt.Add(b.shortestDelay())
	if users, _ := b.count(now, classOf(b.reason)); users < fewUsers && early.Before(b.nextProbeAt) {
		b.nextProbeAt = early
	}
}

// succeed counts an answer that shows that KooDrive works.
func (b *breaker) succeed(s Success) {
	b.prove(s)
	if s.Ended.Sub(b.toldAt) >= tellEvery {
		b.toldAt = s.Ended
		b.gate.cfg.Fleet.Tell(News{Successes: []Success{s}})
	}
}

// prove counts an answer, of this worker or of another one, that shows that calls do
// not all fail.
func (b *breaker) prove(s Success) {
	if isSuccess(s.Reason) {
		b.gate.goodUser = s.User
	}
	wasClosed := b.state == Closed // at the end of an outage nobody is at fault
	for class, r := range b.rows {
		if !proves(s.Reason, class) {
			continue
		}
		for _, user := range r.prove(s.Began, s.Ended) {
			if wasClosed {
				b.atFault.Add(userClass{user, class}, s.Ended)
			}
		}
		if isSuccess(s.Reason) && b.atFault.Len() > 0 {
			b.atFault.Remove(userClass{s.User, class})
		}
		b.decide(theTask, func(d *doubt) bool { return d.class == class && d.at.Before(s.Began) })
		if b.state != Closed && classOf(b.reason) == class && s.Began.After(b.since) {
			b.close(s.Ended)
		}
	}
}

// merge counts what the fleet has told.
func (b *breaker) merge(now time.Time, news *News) {
	for _, s := range news.Successes {
		if s.Kind == b.kind && s.Ended.After(b.rows[tasks.Upstream].succeededAt) {
			b.prove(s)
		}
	}
	for _, f := range news.Failures {
		r := b.rows[f.Class]
		if f.Kind != b.kind || r == nil || !r.lastFailure(f.User).IsZero() ||
			f.At.Before(r.succeededAt.Add(clockError)) || f.At.Before(r.provenFrom.Add(clockError)) {
			continue
		}
		r.add(f.User, "", f.At)
		if users, _ := b.count(now, f.Class); users >= manyUsers {
			b.open(now, f.Class)
		}
	}
}

// open opens a closed breaker. All doubts are about this outage.
func (b *breaker) open(now time.Time, reason tasks.Reason) {
	if b.state != Closed {
		return
	}
	if now.Sub(b.since) >= maxProbeDelay {
		b.delays.Reset() // a new outage; in the same outage the delays keep growing
	}
	b.reason, b.since = reason, now
	b.generation++
	b.lastProbeAt, b.nextProbeAt = now, now.Add(b.probeDelay())
	b.setState(Open)
	b.decide(anOutage, func(*doubt) bool { return true })
}

// close closes the breaker, and begins a ramp.
func (b *breaker) close(now time.Time) {
	b.since = now
	b.generation++
	b.ramp.restart(now)
	b.setState(Closed)
	b.reason = ""
}

func (b *breaker) setState(to State) {
	from := b.state
	b.state = to
	if from != to {
		b.gate.cfg.OnChange(b.kind, from, to, b.reason)
	}
}

// probeDelay returns the time until the next probe.
func (b *breaker) probeDelay() time.Duration {
	return max(b.delays.NextBackOff(), b.shortestDelay())
}

func (b *breaker) shortestDelay() time.Duration { return minProbeDelay * time.Duration(b.gate.live) }
