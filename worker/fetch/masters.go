package fetch

import (
	"context"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// master is one of the masters of a cluster. A single Redis is the only one.
type master struct {
	isAsked bool      // it has not answered yet
	until   time.Time // it is not asked before, since it has failed
	isSlow  bool      // it was late, so that its leases tell no order
	inTime  int       // how many times it was in time since then
}

const (
	// slowAfter is how long a round waits for the slowest master.
	slowAfter = 250 * time.Millisecond
	// inTimeAgain is how many times in a row a slow master must be in time.
	inTimeAgain = 20
)

// isReady reports whether a master may be asked.
func (m *master) isReady() bool { return !m.isAsked && (m.until.IsZero() || time.Now().After(m.until)) }

// findMasters finds out which master of the cluster has which queue now.
func (f *Fetcher) findMasters(ctx context.Context) {
	for _, q := range f.queues {
		addr := asynqx.MasterOf(ctx, f.cfg.Redis, asynqx.PendingKey(q.name))
		if f.masters[addr] == nil {
			f.masters[addr] = &master{}
		}
		q.master = f.masters[addr]
	}
}

// wholeSecond returns a lease that tells no order and no process, as those of asynq.
func wholeSecond(lease int64) int64 { return lease - lease%time.Second.Microseconds() }

// fetchFromMasters makes the round trips to the masters of a cluster at the same time. A
// master that takes too long is not waited for: it is asked again when it has answered. An
// error is returned if all of them fail.
//
// Tasks must begin in the order of their leases. So the tasks of a late answer are put back
// if their leases tell an order. From then on the leases of that master are whole seconds,
// which tell none: if the process dies, all of these tasks are suspects. That ends when the
// master is in time again. If the process dies before the tasks are put back, package
// recovery may take a task that has begun for one that has not, and not suspect it.
func (f *Fetcher) fetchFromMasters(ctx context.Context, round []*roundTrip) (isIdle bool, err error) {
	for _, r := range round {
		r.master.isAsked = true
		f.flying++
		go f.ask(ctx, r)
	}
	timer := time.NewTimer(slowAfter)
	defer timer.Stop()
	var answered []*roundTrip
	for waiting := len(round); waiting > 0; {
		select {
		case r := <-f.answers:
			f.flying--
			answered = append(answered, r)
			if !r.isLate {
				waiting--
			}
		case <-timer.C:
			waiting -= f.goOnWithout(round)
		}
	}
	isIdle = !f.receive(answered...)
	failed := 0
	for _, r := range answered {
		if r.settle(); r.err != nil && !r.isLate {
			err = r.err
			failed++
		}
	}
	if failed < len(round) && err != nil {
		f.logError(ctx, err)
		err = nil
	}
	return isIdle, err
}

// ask makes a round trip.
func (f *Fetcher) ask(ctx context.Context, r *roundTrip) {
	f.send(ctx, r)
	f.mu.Lock()
	r.isOver = true
	putBack := r.isLate && !r.isUnordered
	f.mu.Unlock()
	if putBack {
		f.putBack(context.WithoutCancel(ctx), r.tasks())
		r.isPutBack = true
	}
	f.answers <- r
}

// goOnWithout marks those round trips as late that were not answered, and returns how many
// these are.
func (f *Fetcher) goOnWithout(round []*roundTrip) (late int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range round {
		if !r.isOver {
			r.isLate = true
			late++
		}
	}
	return late
}

// settle says what an answer means for its master.
func (r *roundTrip) settle() {
	m := r.master
	m.isAsked, m.until = false, time.Time{}
	if r.err != nil {
		m.until = time.Now().Add(errorPause)
	}
	switch {
	case r.isLate:
		m.isSlow, m.inTime = true, 0
	case m.inTime < inTimeAgain:
		m.inTime++
	default:
		m.isSlow = false
	}
}

// receiveLate takes the late answers that are there.
func (f *Fetcher) receiveLate() {
	for f.flying > 0 {
		select {
		case r := <-f.answers:
			f.flying--
			f.receive(r)
			r.settle()
		default:
			return
		}
	}
}

// awaitAnswers waits for all answers, so that their tasks can be put back.
func (f *Fetcher) awaitAnswers() {
	for ; f.flying > 0; f.flying-- {
		f.receive(<-f.answers)
	}
}
