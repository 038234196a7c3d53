package fetch

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
)

const (
	// ahead is for what time tasks are fetched ahead.
	ahead = 100 * time.Millisecond
	// handover is how long it takes to end a task and begin another on a busy machine, without
	// their calls.
	handover = 14 * time.Millisecond
	// meanOver is over how many tasks the mean of their durations is taken.
	meanOver = 64
	// mostWait is how long a task may wait here before it is put back.
	mostWait = 2 * time.Second
	// mostAtOnce is how many tasks are fetched at most in one round trip. Redis does
	// nothing else meanwhile: about 2 ms.
	mostAtOnce = 250
	// opTimeout bounds one round trip.
	opTimeout = 5 * time.Second
	// pausedFor is how long a paused queue is not asked again.
	pausedFor = 500 * time.Millisecond
	// errorPause is the pause after an error of Redis.
	errorPause = 500 * time.Millisecond
	// logEvery is the time between two log lines about such errors.
	logEvery = 30 * time.Second
	// askFor is how long asynq waits here for a task before it hears that there is none.
	askFor = time.Second
	// suspectsAtOnce is how many suspects are taken at a time: one runs, and one waits for it.
	suspectsAtOnce = 2
	// mostSuspects is how many suspects wait here at most. More than that run in the two
	// seconds for which they may only if calls are fast.
	mostSuspects = 1000
	// beginsWithin is the time within which a task that was taken begins. asynq does not
	// begin one whose deadline has passed.
	beginsWithin = time.Second
)

// Config is what a Fetcher needs.
type Config struct {
	// Redis is the client to fetch with. It needs one or two connections, and one for each
	// of Watch.
	Redis redis.UniversalClient
	// Queues are the queues and their weights.
	Queues map[string]int
	// Slots is how many tasks are worked on at once, but for some that get ready.
	Slots int
	// Watch are those of the queues whose tasks begin at once even if all queues were empty.
	Watch []string
	// Poll is the time between two looks into queues that were empty, if none is watched.
	Poll time.Duration
	// Hold reports whether no task of a queue may be taken now, and Halt whether none may
	// be begun. They must not block.
	Hold   func(queue string) bool
	Halt   func() bool
	Logger *zap.Logger
}

// Fetcher fetches tasks. It is safe for concurrent use.
type Fetcher struct {
	cfg      Config
	queues   []*queue // the heaviest first; only Run uses what is in them
	tag      int64    // in all leases; see asynqx.LeaseTag
	lease    int64    // the next one, in µs of Unix time; only Run uses it
	watchers []*watcher
	seen     chan *queue // a watcher has seen a task there
	hasSeen  bool        // and none has been fetched since; only Run uses it
	// lookCloser: one of the queues that were empty has tasks. Only Run uses it.
	lookCloser bool
	logged     time.Time // the latest error

	isCluster bool
	masters   map[string]*master // of a cluster, by address; only Run uses it, and what is in them
	answers   chan *roundTrip
	flying    int // round trips that were not answered yet; only Run uses it

	mu       sync.Mutex // guards what follows
	ready    []fetched  // the first to be taken in front
	suspects []fetched  // likewise; they wait apart, so that nothing waits for them
	all      taken
	marked   taken // those of them that are suspects
	takenAt  time.Time
	ended    int // tasks, since the latest look at it
	endedAt  time.Time
	rate     float64       // tasks that end in a second
	took     time.Duration // the mean of the latest tasks, from Begin to their end; zero: none has ended
	low      int           // with so few tasks ready, more are fetched
	closed   bool
	isFull   bool          // who asks waits for a slot
	asked    chan struct{} // wakes who asks for a task: there may be one to take
	changed  chan struct{} // wakes Run
}

// queue is one of the queues.
type queue struct {
	name    string
	weight  int
	master  *master
	credit  int       // the queue with the most is the next to give a task
	isEmpty bool      // it had no task at the latest look
	paused  time.Time // when it was seen to be paused; zero if it is not
}

// fetched is a task that was fetched.
type fetched struct {
	queue   string
	message string // as asynq stores it
	lease   int64  // when it expires, in µs of Unix time
	at      time.Time
}

// isSuspect reports whether a task has the mark of a suspect. dequeueCmd looks for the same.
func (t fetched) isSuspect() bool { return strings.Contains(t.message, asynqx.SuspectHeader) }

// isOld reports whether a task has waited here for too long. Time in which the machine slept
// counts, and so does a clock that was set back: another worker may have the task by now.
func (t fetched) isOld() bool {
	return time.Now().Round(0).Sub(t.at.Round(0)).Abs() > mostWait
}

// New returns a Fetcher. Nothing is fetched until Run is called.
func New(cfg Config) *Fetcher {
	f := &Fetcher{
		cfg: cfg, tag: asynqx.LeaseTag(asynqx.ThisProcess()), endedAt: time.Now(), seen: make(chan *queue), asked: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		masters: make(map[string]*master), answers: make(chan *roundTrip),
	}
	_, f.isCluster = cfg.Redis.(*redis.ClusterClient)
	single := &master{}
	for name, weight := range cfg.Queues {
		q := &queue{name: name, weight: weight, master: single}
		f.queues = append(f.queues, q)
		if slices.Contains(cfg.Watch, name) {
			f.watchers = append(f.watchers, &watcher{queue: q, begin: make(chan struct{}, 1)})
		}
	}
	slices.SortFunc(f.queues, func(a, b *queue) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.name, b.name))
	})
	return f
}

// wake sends word through a channel with room for one, unless it is there already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run fetches tasks until ctx ends.
func (f *Fetcher) Run(ctx context.Context) {
	for _, w := range f.watchers {
		go w.run(ctx, f.cfg.Redis, f.seen)
	}
	defer f.awaitAnswers()
	for ctx.Err() == nil {
		f.receiveLate()
		f.putBackOld(ctx)
		n := f.wanted()
		isIdle, err := false, error(nil)
		if n > 0 {
			isIdle, err = f.fetch(ctx, n)
		}
		switch {
		case err != nil:
			f.logError(ctx, err)
			sleep(ctx, errorPause)
		case isIdle:
			f.awaitTasks(ctx)
		case n == 0:
			select {
			case <-f.changed:
			case <-ctx.Done():
			case <-time.After(f.cfg.Poll):
			}
		}
	}
}

func (f *Fetcher) logError(ctx context.Context, err error) {
	if ctx.Err() == nil && time.Since(f.logged) > logEvery {
		f.logged = time.Now()
		f.cfg.Logger.Warn("fetch tasks: Redis does not answer as it should; trying again", zap.Error(err))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// wanted returns how many tasks to fetch. Fewer than half of what should be here are not
// worth a round trip.
func (f *Fetcher) wanted() int {
	if f.cfg.Halt() {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	target := max(f.slots()-f.all.sum(), 0) + int(f.rate*ahead.Seconds())
	f.low = target / 2
	if len(f.ready) > f.low {
		return 0
	}
	return max(min(target-len(f.ready), mostAtOnce), 0)
}

// share divides n tasks among those queues that may have some, by their weights. Over time
// each gets exactly its share, even if n is 1. Queues that had no task are returned in look.
func (f *Fetcher) share(n int) (take map[*queue]int, look []*queue) {
	var open []*queue
	weights := 0
	for _, q := range f.queues {
		switch {
		case !q.master.isReady():
		case q.isEmpty:
			look = append(look, q)
		case f.cfg.Hold(q.name), time.Since(q.paused) < pausedFor:
		default:
			open = append(open, q)
			weights += q.weight
		}
	}
	take = make(map[*queue]int, len(open))
	for range n {
		var next *queue
		for _, q := range open {
			q.credit += q.weight
			if next == nil || q.credit > next.credit {
				next = q
			}
		}
		if next != nil {
			next.credit -= weights
			take[next]++
		}
	}
	return take, look
}

// measure brings the rate up to date: the mean of about half a second. The caller holds
// the lock.
func (f *Fetcher) measure() {
	const least, over = 20 * time.Millisecond, 500 * time.Millisecond
	now := time.Now()
	elapsed := now.Sub(f.endedAt)
	if elapsed < least {
		return
	}
	weight := min(float64(elapsed)/float64(over), 1)
	f.rate += weight * (float64(f.ended)/elapsed.Seconds() - f.rate)
	f.ended, f.endedAt = 0, now
}

// add adds a task to those that are here. Suspects beyond mostSuspects are given to asynq as
// they come, and package recovery makes them come back later. The caller holds the lock.
func (f *Fetcher) add(t fetched) {
	if t.isSuspect() && len(f.suspects) < mostSuspects {
		f.suspects = append(f.suspects, t)
	} else {
		f.ready = append(f.ready, t)
	}
}

// putBackOld puts back what has waited for too long, or all if no task may be begun.
func (f *Fetcher) putBackOld(ctx context.Context) {
	isHalted := f.cfg.Halt()
	f.mu.Lock()
	var old []fetched
	for _, list := range []*[]fetched{&f.ready, &f.suspects} {
		n := 0
		for n < len(*list) && (isHalted || (*list)[n].isOld()) {
			n++
		}
		old = append(old, (*list)[:n]...)
		*list = (*list)[n:]
	}
	f.mu.Unlock()
	f.putBack(ctx, old)
}

// Close hands out no more tasks, and puts back those that are here. Run must have returned.
func (f *Fetcher) Close(ctx context.Context) {
	f.Stop()
	f.mu.Lock()
	left := slices.Concat(f.ready, f.suspects)
	f.ready, f.suspects = nil, nil
	f.mu.Unlock()
	f.putBack(ctx, left)
}

// Stop hands out no more tasks.
func (f *Fetcher) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	wake(f.asked)
}
