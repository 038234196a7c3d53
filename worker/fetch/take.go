package fetch

import (
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// taken is how many tasks were taken and have not ended.
type taken struct {
	waiting int // for asynq to begin them
	running int
}

func (t taken) sum() int { return t.waiting + t.running }

// Hook returns the hook for the Redis client of asynq's servers. It answers each question
// for a task, whichever of the queues it is about: the message says where it comes from.
func (f *Fetcher) Hook() redis.Hook {
	serves := func(queue string) bool { _, ok := f.cfg.Queues[queue]; return ok }
	return asynqx.DequeueHook(serves, f.take)
}

// take returns the next task. If there is none, or no slot is free, it waits a moment. asynq
// asks from one goroutine.
func (f *Fetcher) take() (message string, ok bool) {
	var limit <-chan time.Time
	for {
		message, ok, isClosed := f.next()
		if ok || isClosed {
			return message, ok
		}
		if limit == nil {
			timer := time.NewTimer(askFor)
			defer timer.Stop()
			limit = timer.C
		}
		select {
		case <-f.asked:
		case <-limit:
			return "", false
		}
	}
}

// next returns the next task if one may be taken.
func (f *Fetcher) next() (message string, ok, isClosed bool) {
	isHalted := f.cfg.Halt()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return "", false, true
	}
	if time.Since(f.takenAt) > beginsWithin {
		f.all.waiting, f.marked.waiting = 0, 0
	}
	if f.isFull = f.all.sum() >= f.slots(); f.isFull {
		return "", false, false
	}
	list, isSuspect := &f.ready, false
	if len(f.suspects) > 0 && f.marked.sum() < suspectsAtOnce {
		list, isSuspect = &f.suspects, true
	}
	if len(*list) == 0 || isHalted || (*list)[0].isOld() {
		wake(f.changed)
		return "", false, false
	}
	message = (*list)[0].message
	(*list)[0] = fetched{}
	*list = (*list)[1:]
	f.takenAt = time.Now()
	f.all.waiting++
	if isSuspect {
		f.marked.waiting++
	}
	if len(f.ready) <= f.low {
		wake(f.changed)
	}
	return message, true, false
}

// slots is how many tasks may be worked on at once. If calls are short, it is some more than
// Config.Slots: as many as end during a handover. They are ready when a call ends. Package
// koodrive bounds the calls. If many long calls end at the same moment, that is no reason for
// more: it takes long until others do. The caller holds the lock.
func (f *Fetcher) slots() int {
	steady := f.rate
	if f.took > 0 {
		steady = min(steady, float64(f.cfg.Slots)/f.took.Seconds())
	}
	return f.cfg.Slots + int(steady*handover.Seconds())
}

// Begin tells that a task that was taken begins. It has one of the slots until the function
// that Begin returns is called for the first time.
func (f *Fetcher) Begin(isSuspect bool) (end func()) {
	begun := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all.waiting = max(f.all.waiting-1, 0)
	f.all.running++
	if isSuspect {
		f.marked.waiting = max(f.marked.waiting-1, 0)
		f.marked.running++
	}
	return sync.OnceFunc(func() { f.end(isSuspect, time.Since(begun)) })
}

func (f *Fetcher) end(isSuspect bool, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if isSuspect || f.isFull {
		f.isFull = false
		wake(f.asked)
	}
	if isSuspect {
		f.marked.running--
	}
	f.all.running--
	f.ended++
	if f.took == 0 {
		f.took = took
	}
	f.took += (took - f.took) / meanOver
}
