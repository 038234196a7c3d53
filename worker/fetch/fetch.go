package fetch

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/asynqx"
)

const (
	// ahead is for what time tasks are fetched ahead.
	ahead = 100 * time.Millisecond
	// mostWait is how long a task may wait here before it is put back.
	mostWait = 2 * time.Second
	// mostAtOnce is how many tasks are fetched at most in one round trip. Redis does
	// nothing else meanwhile: about 2 ms.
	mostAtOnce = 250
	// opTimeout bounds one round trip.
	opTimeout = 5 * time.Second
	// errorPause is the pause after an error of Redis.
	errorPause = 500 * time.Millisecond
	// logEvery is the time between two log lines about such errors.
	logEvery = 30 * time.Second
	// askFor is how long asynq waits here for a task before it hears that there is none.
	askFor = time.Second
)

// Config is what a Fetcher needs.
type Config struct {
	// Redis is the client to fetch with. It needs only one or two connections.
	Redis redis.UniversalClient
	// Queues are the queues and their weights.
	Queues map[string]int
	// Slots is how many tasks run at once.
	Slots int
	// Poll is the time between two looks into queues that were empty.
	Poll time.Duration
	// Hold reports whether no task of a queue may be taken now, and Halt whether none may
	// be begun. They must not block.
	Hold   func(queue string) bool
	Halt   func() bool
	Logger *zap.Logger
}

// Fetcher fetches tasks. It is safe for concurrent use.
type Fetcher struct {
	cfg   Config
	names []string // of the queues, the heaviest first

	mu      sync.Mutex // guards what follows
	ready   []fetched  // the first to be taken in front
	running int        // tasks that were taken and have not ended
	ended   int        // since the latest look at it
	endedAt time.Time
	rate    float64 // tasks that end in a second
	low     int     // with so few tasks here, more are fetched
	turn    int
	isEmpty map[string]bool // queues that had no task at the latest look
	closed  bool
	arrived chan struct{} // closed when tasks arrive
	changed chan struct{} // wakes Run
}

// fetched is a task that was fetched.
type fetched struct {
	queue   string
	message string // as asynq stores it
	lease   int64  // when it expires, in µs of Unix time
	at      time.Time
}

// isOld reports whether a task has waited here for too long. Time in which the machine slept
// counts, and so does a clock that was set back: another worker may have the task by now.
func (t fetched) isOld() bool {
	return time.Now().Round(0).Sub(t.at.Round(0)).Abs() > mostWait
}

// New returns a Fetcher. Nothing is fetched until Run is called.
func New(cfg Config) *Fetcher {
	names := slices.SortedFunc(maps.Keys(cfg.Queues), func(a, b string) int {
		return cmp.Or(cmp.Compare(cfg.Queues[b], cfg.Queues[a]), cmp.Compare(a, b))
	})
	return &Fetcher{
		cfg: cfg, names: names, endedAt: time.Now(), isEmpty: make(map[string]bool),
		arrived: make(chan struct{}), changed: make(chan struct{}, 1),
	}
}

// Hook returns the hook for the Redis client of asynq's servers. It answers each question
// for a task, whichever of the queues it is about: the message says where it comes from.
func (f *Fetcher) Hook() redis.Hook {
	serves := func(queue string) bool { _, ok := f.cfg.Queues[queue]; return ok }
	return asynqx.DequeueHook(serves, f.take)
}

// take returns the next task. If there is none it waits a moment for one.
func (f *Fetcher) take() (message string, ok bool) {
	var limit <-chan time.Time
	for {
		message, ok, arrived := f.next()
		if ok || arrived == nil {
			return message, ok
		}
		if limit == nil {
			timer := time.NewTimer(askFor)
			defer timer.Stop()
			limit = timer.C
		}
		select {
		case <-arrived:
		case <-limit:
			return "", false
		}
	}
}

// next returns the next task if one is here. Otherwise it returns a channel that is closed
// when tasks arrive, or nil if none will.
func (f *Fetcher) next() (message string, ok bool, arrived <-chan struct{}) {
	isHalted := f.cfg.Halt()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return "", false, nil
	}
	if len(f.ready) == 0 || isHalted || f.ready[0].isOld() {
		f.running = min(f.running, f.cfg.Slots-1) // a slot is free, or asynq would not ask
		f.wake()
		return "", false, f.arrived
	}
	message = f.ready[0].message
	f.ready[0] = fetched{}
	f.ready = f.ready[1:]
	f.running++
	if len(f.ready) <= f.low {
		f.wake()
	}
	return message, true, nil
}

// Ended tells that a task that was taken has ended, however.
func (f *Fetcher) Ended() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = max(f.running-1, 0)
	f.ended++
}

func (f *Fetcher) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Run fetches tasks until ctx ends.
func (f *Fetcher) Run(ctx context.Context) {
	var logged time.Time
	for ctx.Err() == nil {
		f.putBackOld(ctx)
		wants := f.wants()
		found, err := 0, error(nil)
		if len(wants) > 0 {
			found, err = f.fetch(ctx, wants)
		}
		switch {
		case err != nil:
			if ctx.Err() == nil && time.Since(logged) > logEvery {
				logged = time.Now()
				f.cfg.Logger.Warn("fetch tasks: Redis does not answer as it should; trying again", zap.Error(err))
			}
			sleep(ctx, errorPause)
		case len(wants) > 0 && found == 0:
			sleep(ctx, f.cfg.Poll)
		case len(wants) == 0:
			select {
			case <-f.changed:
			case <-ctx.Done():
			case <-time.After(f.cfg.Poll):
			}
		}
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

// wants returns how many tasks to fetch from each queue. Fewer than half of what should be
// here are not worth a round trip.
func (f *Fetcher) wants() map[string]int {
	if f.cfg.Halt() {
		return nil
	}
	held := make(map[string]bool, len(f.names))
	for _, q := range f.names {
		held[q] = f.cfg.Hold(q) // not under the lock
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	target := max(f.cfg.Slots-f.running, 0) + int(f.rate*ahead.Seconds())
	f.low = target / 2
	n := min(target-len(f.ready), mostAtOnce)
	if n <= 0 || len(f.ready) > f.low {
		return nil
	}
	weights := 0
	for _, q := range f.names {
		if !held[q] && !f.isEmpty[q] {
			weights += f.cfg.Queues[q]
		}
	}
	out := make(map[string]int)
	f.turn++
	left := n
	for i := range f.names {
		q := f.names[(i+f.turn)%len(f.names)]
		switch {
		case held[q]:
		case f.isEmpty[q]:
			out[q] = 1 // beyond n, since there is hardly one
		case left > 0:
			out[q] = min(max(n*f.cfg.Queues[q]/weights, 1), left)
			left -= out[q]
		}
	}
	return out
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

// fetch takes tasks from the queues in one round trip. The end of ctx does not cut it short,
// since the tasks would be lost until their leases expire.
func (f *Fetcher) fetch(ctx context.Context, wants map[string]int) (found int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	at := time.Now()
	lease := at.Add(asynqx.LeaseTTL).UnixMicro()
	var queues []string
	for _, q := range f.names {
		if wants[q] > 0 {
			queues = append(queues, q)
		}
	}
	replies, err := runEach(ctx, f.cfg.Redis, dequeueCmd, queues, func(q string) ([]string, []any) {
		return []string{asynqx.PendingKey(q), asynqx.PausedKey(q), asynqx.ActiveKey(q), asynqx.LeaseKey(q)},
			[]any{lease, asynqx.TaskKeyPrefix(q), wants[q]}
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, q := range queues {
		messages, parseErr := replies[i].StringSlice()
		if parseErr != nil {
			err = cmp.Or(err, fmt.Errorf("queue %s: %w", q, parseErr))
			continue
		}
		f.isEmpty[q] = len(messages) < wants[q]
		found += len(messages)
		for i, m := range messages {
			f.ready = append(f.ready, fetched{q, m, lease + int64(i), at})
		}
	}
	if found > 0 {
		close(f.arrived)
		f.arrived = make(chan struct{})
	}
	return found, err
}

// putBackOld puts back what has waited for too long, or all if no task may be begun.
func (f *Fetcher) putBackOld(ctx context.Context) {
	isHalted := f.cfg.Halt()
	f.mu.Lock()
	n := 0
	for n < len(f.ready) && (isHalted || f.ready[n].isOld()) {
		n++
	}
	old := slices.Clone(f.ready[:n])
	f.ready = f.ready[n:]
	f.mu.Unlock()
	f.putBack(ctx, old)
}

// Close hands out no more tasks, and puts back those that are here. Run must have returned.
func (f *Fetcher) Close(ctx context.Context) {
	f.Stop()
	f.mu.Lock()
	left := f.ready
	f.ready = nil
	f.mu.Unlock()
	f.putBack(ctx, left)
}

// Stop hands out no more tasks.
func (f *Fetcher) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.arrived)
		f.arrived = make(chan struct{})
	}
}
