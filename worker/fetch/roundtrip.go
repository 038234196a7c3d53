package fetch

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// fetch takes n tasks in one round trip, and looks into the queues that were empty. Each
// lease is later than the one before it, whatever the queue. It is idle if it finds nothing.
// The end of ctx does not cut it short, since the tasks would be lost until their leases
// expire.
func (f *Fetcher) fetch(ctx context.Context, n int) (isIdle bool, err error) {
	if f.isCluster {
		f.findMasters(ctx)
	}
	take, look := f.share(n)
	round := f.roundTrips(take, look)
	if f.isCluster {
		return f.fetchFromMasters(ctx, round)
	}
	if len(round) == 0 {
		return true, nil
	}
	f.send(ctx, round[0])
	isIdle = !f.receive(round...)
	return isIdle, round[0].err
}

// roundTrip is what is asked of a master in one round trip.
type roundTrip struct {
	master      *master
	isUnordered bool // the leases tell no order
	at          time.Time
	from        []*queue
	n           []int // how many tasks are taken from each
	calls       []scriptCall
	look        []*queue

	replies  []*redis.Cmd
	foundAny func() (bool, error) // reads the answers about look
	err      error

	// The lock of the Fetcher guards these.
	isOver    bool // it was answered
	isLate    bool // the others went on without it
	isPutBack bool // its tasks are, since they came too late
}

// roundTrips divides what is asked by master.
func (f *Fetcher) roundTrips(take map[*queue]int, look []*queue) (out []*roundTrip) {
	at := time.Now()
	if first := at.Add(asynqx.LeaseTTL).UnixMicro(); f.lease < first || f.lease > first+time.Second.Microseconds() { // the clock was set back
		f.lease = first - first%asynqx.LeaseStep + f.tag
	}
	byMaster := make(map[*master]*roundTrip, 1)
	tripTo := func(q *queue) *roundTrip {
		if byMaster[q.master] == nil {
			byMaster[q.master] = &roundTrip{master: q.master, isUnordered: q.master.isSlow, at: at}
			out = append(out, byMaster[q.master])
		}
		return byMaster[q.master]
	}
	for _, q := range f.queues { // the urgent ones first
		if take[q] == 0 {
			continue
		}
		r := tripTo(q)
		r.from, r.n = append(r.from, q), append(r.n, take[q])
		if r.isUnordered {
			r.calls = append(r.calls, dequeueCall(q.name, wholeSecond(f.lease), 0, take[q]))
			continue
		}
		r.calls = append(r.calls, dequeueCall(q.name, f.lease, asynqx.LeaseStep, take[q]))
		f.lease += asynqx.LeaseStep * int64(take[q])
	}
	for _, q := range look {
		r := tripTo(q)
		r.look = append(r.look, q)
	}
	return out
}

// send makes a round trip.
func (f *Fetcher) send(ctx context.Context, r *roundTrip) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	r.replies, r.err = runAll(ctx, f.cfg.Redis, dequeueCmd, r.calls, func(p redis.Pipeliner) { r.foundAny = f.lookInto(ctx, p, r.look) })
}

// receive takes note of the answers to some round trips. It reports whether a queue has a
// task.
func (f *Fetcher) receive(trips ...*roundTrip) (found bool) {
	var all []fetched
	for _, r := range trips {
		foundHere, err := r.foundAny()
		found, r.err = found || foundHere, cmp.Or(r.err, err)
		for i, q := range r.from {
			messages, err := r.replies[i].StringSlice()
			q.paused = time.Time{}
			if errors.Is(err, redis.Nil) {
				q.paused = r.at
			}
			q.isEmpty = err == nil && len(messages) < r.n[i]
		}
		all = append(all, r.tasks()...)
	}
	if len(trips) > 1 {
		slices.SortStableFunc(all, func(a, b fetched) int { return cmp.Compare(a.lease, b.lease) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range all {
		f.add(t)
	}
	if len(all) > 0 {
		f.hasSeen = false
		wake(f.asked)
	}
	return found || len(all) > 0
}

// tasks returns the tasks that have arrived.
func (r *roundTrip) tasks() (out []fetched) {
	if r.isPutBack {
		return nil
	}
	for i, q := range r.from {
		messages, _ := r.replies[i].StringSlice()
		first, _ := r.calls[i].args[0].(int64)
		step := int64(asynqx.LeaseStep)
		if r.isUnordered {
			step = 0
		}
		for i, m := range messages {
			t := fetched{q.name, m, first + step*int64(i), r.at}
			if t.isSuspect() {
				t.lease = wholeSecond(t.lease) // as dequeueCmd does
			}
			out = append(out, t)
		}
	}
	return out
}

// lookInto asks whether queues that were empty have tasks. One question is about all of
// them; if the answer is yes, the next is about each. In a cluster a question is about one
// queue. The function that it returns reads the answers.
func (f *Fetcher) lookInto(ctx context.Context, p redis.Pipeliner, look []*queue) (foundAny func() (bool, error)) {
	together := max(len(look), 1)
	if f.isCluster || f.lookCloser {
		together = 1
	}
	var answers []*redis.IntCmd
	for group := range slices.Chunk(look, together) {
		keys := make([]string, len(group))
		for i, q := range group {
			keys[i] = asynqx.PendingKey(q.name)
		}
		answers = append(answers, p.Exists(ctx, keys...))
	}
	return func() (found bool, err error) {
		for i, answer := range answers {
			hasTasks := answer.Val() > 0
			if together == 1 {
				look[i].isEmpty = !hasTasks
			}
			found, err = found || hasTasks, cmp.Or(err, answer.Err())
		}
		f.lookCloser = found && together > 1
		return found, err
	}
}
