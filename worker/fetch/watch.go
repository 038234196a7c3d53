package fetch

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/cancelable"
)

const (
	// seldom is the time between two looks into queues that were empty, while the most
	// urgent of them are watched.
	seldom = 100 * time.Millisecond
	// watchFor is how long one command watches.
	watchFor = 5 * time.Second
	// watchPause is the pause after a watch that failed.
	watchPause = time.Second
)

// watcher watches a queue that was empty. Its task begins at once, though Redis is not
// asked all the time.
type watcher struct {
	queue *queue
	begin chan struct{} // says that the queue is empty
	fails atomic.Bool   // Redis does not take the command, or does not answer
}

// run tells of each task that comes into the queue while it is empty. Redis is told to move
// the oldest task from the end of pending to the end of pending, as soon as there is one: that
// changes nothing, and it waits.
func (w *watcher) run(ctx context.Context, rdb redis.UniversalClient, tell chan<- *queue) {
	pending := asynqx.PendingKey(w.queue.name)
	for {
		select {
		case <-w.begin:
		case <-ctx.Done():
			return
		}
		_, err := cancelable.Call(ctx, func() (string, error) {
			return rdb.BLMove(context.WithoutCancel(ctx), pending, pending, "RIGHT", "RIGHT", watchFor).Result()
		})
		w.fails.Store(err != nil && !errors.Is(err, redis.Nil))
		switch {
		case err == nil:
			select {
			case tell <- w.queue:
			case <-ctx.Done():
			}
		case w.fails.Load():
			sleep(ctx, watchPause)
		}
	}
}

// awaitTasks waits until one of the watched queues has a task, or until it is time for a look
// into all queues. A queue that is paused or held is not watched: it may have tasks.
//
// All idle workers see the same task, and one of them gets it. The others do not watch for a
// moment, so that a trickle of tasks does not keep them all busy.
func (f *Fetcher) awaitTasks(ctx context.Context) {
	pause := f.cfg.Poll
	if len(f.watchers) > 0 && !f.hasSeen {
		pause = seldom
		for _, w := range f.watchers {
			if w.queue.isEmpty {
				wake(w.begin)
			}
			if w.fails.Load() {
				pause = f.cfg.Poll
			}
		}
	}
	f.hasSeen = false
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case q := <-f.seen:
		q.isEmpty, f.hasSeen = false, true
	case <-timer.C:
	case <-ctx.Done():
	}
}
