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
	kind      Kind
	gate      *Gate
	delays    *backoff.ExponentialBackOff
	newDelays *backoff.ExponentialBackOff // of nextNewAt
	ramp      ramp

	rows map[tasks.Reason]*row // by class
	// atFault has users whose calls fail while those of others succeed, by when that
	// was last so.
	atFault *simplelru.LRU[userClass, time.Time]
	// spared has users whose calls failed in a short outage, by when it ended.
	spared *simplelru.LRU[userClass, time.Time]
	doubts []*doubt
	toldAt time.Time // when the fleet was told of a success

	state       State
	since       time.Time    // when it closed last, or stopped being closed
	reason      tasks.Reason // why it is not closed
	generation  uint64       // counts how often it opened or closed
	nextProbeAt time.Time    // unless closed
	// nextNewAt is when a user whose calls have not failed may be the probe. It comes
	// before nextProbeAt if only known users have been probed lately.
	nextNewAt time.Time
	probes    uint64
	inFlight  int
}

// userClass is a user, and the class of failures for which the user is at fault.
type userClass struct {
	user  string
	class tasks.Reason
}

func newBreaker(g *Gate, kind Kind) *breaker {
	b := &breaker{
		kind: kind, gate: g, since: time.Now(), delays: newProbeDelays(), newDelays: newProbeDelays(),
		rows: make(map[tasks.Reason]*row), atFault: newUserTimes(), spared: newUserTimes(),
	}
	for _, reason := range tasks.Reasons() {
		if class := classOf(reason); class != "" {
			b.rows[class] = &row{users: make(map[string]*failures)}
		}
	}
	return b
}

func newUserTimes() *simplelru.LRU[userClass, time.Time] {
	l, err := simplelru.NewLRU[userClass, time.Time](maxAtFault, nil)
	if err != nil {
		panic(err) // only if the size is below 1
	}
	return l
}

func newProbeDelays() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(minProbeDelay),
		backoff.WithRandomizationFactor(0.5),
		backoff.WithMultiplier(2),
		backoff.WithMaxInterval(maxProbeDelay),
		backoff.WithMaxElapsedTime(0), // never give up
	)
}

// admit writes the breaker's generation into a permit. If the breaker is not
// closed, the permit is for a probe. The caller must have called blocks before.
func (b *breaker) admit(p *Permit) {
	if b.state != Closed {
		p.probe, p.newUser = true, !b.hasFailed(p.call.User)
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
		b.setNextProbe(now, p.newUser)
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
	if !stale || b.state != Closed { // a late answer of an outage that is over counts no more
		b.fail(now, p.call, reason)
	}
	if _, targets := b.count(now, class); notSent && targets >= someTasks {
		b.open(now, reason) // nothing reaches KooDrive
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
	b.openIfMany(now, class, reason)
}

// openIfMany opens the breaker if the calls of many users have failed since the last
// success. Users who have failed before a success already do not count.
func (b *breaker) openIfMany(now time.Time, class, reason tasks.Reason) {
	users, _ := b.rows[class].count(func(user string) bool {
		return b.isAtFault(now, user, class) || within(b.spared, userClass{user, class}, now)
	})
	if users >= manyUsers {
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
	return within(b.atFault, userClass{user, class}, now)
}

// within reports whether a user was noted within the last atFaultFor.
func within(l *simplelru.LRU[userClass, time.Time], key userClass, now time.Time) bool {
	at, ok := l.Peek(key)
	return ok && now.Sub(at) < atFaultFor
}

// blame decides about the failure of a user's call, now that it is known that KooDrive
// works. If the calls of several users had failed in a row, that was a short outage. But
// who fails again after that is at fault.
func (b *breaker) blame(now time.Time, user string, class tasks.Reason, several bool) about {
	key := userClass{user, class}
	if several && !within(b.spared, key, now) {
		b.spared.Add(key, now)
		return anOutage
	}
	return theTask
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

// hasFailed reports whether a call of the user has failed, and none has succeeded
// since.
func (b *breaker) hasFailed(user string) bool { return !b.lastFailure(user).IsZero() }

// hurry lets a task of a user whose calls have not failed be the next probe, even if
// the delays of the others have grown long.
func (b *breaker) hurry(user string) {
	if b.state == Open && b.nextNewAt.Before(b.nextProbeAt) && !b.hasFailed(user) {
		b.nextProbeAt = b.nextNewAt
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

// prove counts an answer of this worker that shows that calls do not all fail.
func (b *breaker) prove(s Success) {
	if isSuccess(s.Reason) {
		b.gate.goodUser = s.User
	}
	wasClosed := b.state == Closed
	for class, r := range b.rows {
		if !proves(s.Reason, class) {
			continue
		}
		if isSuccess(s.Reason) && b.atFault.Len()+b.spared.Len() > 0 {
			b.atFault.Remove(userClass{s.User, class})
			b.spared.Remove(userClass{s.User, class})
		}
		b.settleRow(class, r, s, wasClosed)
		if b.state != Closed && classOf(b.reason) == class && s.Began.After(b.since) {
			b.close(s.Ended)
		}
	}
}

// settleRow decides about the failures of a class that came before a success.
func (b *breaker) settleRow(class tasks.Reason, r *row, s Success, wasClosed bool) {
	users, _ := b.count(s.Ended, class)
	failed := r.prove(s.Began, s.Ended)
	if !wasClosed || len(failed) == 0 {
		return // nobody is at fault at the end of an outage
	}
	blamed := make(map[string]about)
	for _, user := range failed {
		if blamed[user] = b.blame(s.Ended, user, class, users >= severalUsers); blamed[user] == theTask {
			b.atFault.Add(userClass{user, class}, s.Ended)
		}
	}
	b.decide(func(d *doubt) about {
		if d.class != class || !d.at.Before(s.Began) {
			return 0
		}
		return blamed[d.call.User]
	})
}

// merge counts what the fleet has told. A success of another worker neither decides
// whose fault a failure is nor closes the breaker: only this worker may have a bad
// credential, or a firewall on its way. It brings the next probe forward.
func (b *breaker) merge(now time.Time, news *News) {
	for _, s := range news.Successes {
		if s.Kind != b.kind {
			continue
		}
		if isSuccess(s.Reason) && b.gate.goodUser == "" {
			b.gate.goodUser = s.User
		}
		for class, r := range b.rows {
			if proves(s.Reason, class) && s.Ended.After(r.succeededAt) {
				r.succeededAt = s.Ended
				if soon := now.Add(b.shortestDelay()); b.state == Open && s.Began.After(b.since) && soon.Before(b.nextProbeAt) {
					b.nextProbeAt = soon
				}
			}
		}
	}
	for _, f := range news.Failures {
		r := b.rows[f.Class]
		if f.Kind != b.kind || r == nil || !r.lastFailure(f.User).IsZero() ||
			f.At.Before(r.succeededAt.Add(clockError)) || f.At.Before(r.provenFrom.Add(clockError)) {
			continue
		}
		r.add(f.User, "", f.At)
		b.openIfMany(now, f.Class, f.Class)
	}
}

// open opens a closed breaker. All doubts are about this outage.
func (b *breaker) open(now time.Time, reason tasks.Reason) {
	if b.state != Closed {
		return
	}
	if now.Sub(b.since) >= maxProbeDelay {
		b.delays.Reset() // a new outage; in the same outage the delays keep growing
		b.newDelays.Reset()
	}
	b.reason, b.since = reason, now
	b.generation++
	b.setNextProbe(now, true)
	b.setState(Open)
	b.decide(func(*doubt) about { return anOutage })
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

// setNextProbe sets the time of the next probe. newUser says that the last one was of
// a user whose calls had not failed before.
func (b *breaker) setNextProbe(now time.Time, newUser bool) {
	b.nextProbeAt = now.Add(max(b.delays.NextBackOff(), b.shortestDelay()))
	b.nextNewAt = now.Add(b.shortestDelay())
	if newUser {
		b.nextNewAt = now.Add(max(b.newDelays.NextBackOff(), b.shortestDelay()))
	}
}

func (b *breaker) shortestDelay() time.Duration { return minProbeDelay * time.Duration(b.gate.live) }
