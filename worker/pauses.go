package worker

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/pipeline"
)

const (
	// pausesEvery is the time between two looks at which queues are paused.
	pausesEvery = time.Second
	// pausesTimeout bounds a look.
	pausesTimeout = 2 * time.Second
	// pauseLogEvery is the time between two log lines about one pause.
	pauseLogEvery = time.Minute
)

// pauseWatch knows which queues are paused. What takes tasks from a queue obeys its pause
// without it. The watch is for replays, which run in the queue of dead letters, and for the
// log.
type pauseWatch struct {
	rdb redis.UniversalClient
	log *zap.Logger
	now func() time.Time

	lanes   atomic.Pointer[pauses.Lanes] // nil until they are known
	said    map[string]saidPause         // by queue; only run uses it
	failing bool                         // the log says that Redis does not answer
	putBack *rate.Limiter
}

// saidPause is what the log says of a queue.
type saidPause struct {
	what string
	at   time.Time
}

func newPauseWatch(rdb redis.UniversalClient, log *zap.Logger) *pauseWatch {
	return &pauseWatch{rdb: rdb, log: log, now: time.Now, said: make(map[string]saidPause), putBack: rate.NewLimiter(putBacks, 1)}
}

// run looks once a second until ctx ends.
func (w *pauseWatch) run(ctx context.Context) {
	tick := time.NewTicker(pausesEvery)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look reads which queues are paused, in one round trip. If Redis does not answer, what was
// known stays.
func (w *pauseWatch) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, pausesTimeout)
	defer cancel()
	lanes, err := pauses.Read(limited, w.rdb)
	if err != nil {
		if ctx.Err() == nil && !w.failing {
			w.failing = true
			w.log.Warn("cannot read which queues are paused; what was known stays in use", zap.Error(err))
		}
		return
	}
	w.failing = false
	w.lanes.Store(&lanes)
	w.write(lanes.Groups())
}

// write logs each pause when it is new or has changed, once a minute as long as it lasts, and
// when it has ended.
func (w *pauseWatch) write(groups []pauses.Group) {
	now := w.now()
	byQueue := make(map[string][]pauses.Group)
	for _, g := range groups {
		byQueue[g.Queue] = append(byQueue[g.Queue], g)
	}
	for _, queue := range tasks.Queues() {
		said, wasPaused := w.said[queue]
		what := describe(byQueue[queue])
		switch {
		case what == "":
			if wasPaused {
				delete(w.said, queue)
				w.log.Info("the queue is not paused any more", zap.String("queue", queue))
			}
		case what != said.what || now.Sub(said.at) >= pauseLogEvery:
			w.said[queue] = saidPause{what, now}
			for _, g := range byQueue[queue] {
				w.log.Warn("the queue is paused: its tasks wait, and so do its replays", pauseFields(g)...)
			}
		}
	}
}

// describe tells the pauses of a queue from others.
func describe(groups []pauses.Group) string {
	var out []string
	for _, g := range groups {
		out = append(out, g.String()+" "+strings.Join(g.Lanes, " "))
	}
	return strings.Join(out, "\n")
}

func pauseFields(g pauses.Group) []zap.Field {
	until := "somebody resumes it"
	if !g.Until.IsZero() {
		until = g.Until.UTC().Format(time.RFC3339)
	}
	fields := []zap.Field{zap.String("queue", g.Queue), zap.String("by", g.Maker()), zap.String("reason", g.Reason), zap.String("until", until)}
	if !g.Since.IsZero() {
		fields = append(fields, zap.String("since", g.Since.UTC().Format(time.RFC3339)))
	}
	if !g.IsWhole() {
		fields = append(fields, zap.Strings("lanes", g.Lanes))
	}
	return fields
}

const (
	// leastPutBack and mostPutBack are the shortest and the longest time after which a
	// replay that waits for the end of a pause is looked at again.
	leastPutBack = 3 * time.Second
	mostPutBack  = 30 * time.Second
	// putBacks is how many such replays a worker looks at in a second, so that thousands of
	// them cost it little: 10,000 take 3 % of a CPU. If there are more of them than can have
	// their turn within mostPutBack, it is more.
	putBacks = 100
)

// holds reports whether a replay has to wait, because the lane in which its task died is
// paused. It asks nobody: the answer may be a second old.
func (w *pauseWatch) holds(l deadletter.Letter) (why pipeline.Problem, wait bool) {
	lanes := w.lanes.Load()
	if lanes == nil {
		return pipeline.Problem{Reason: tasks.Waiting, Detail: "it is not known yet whether its queue is paused", RetryAfter: pausesEvery}, true
	}
	if len(*lanes) == 0 {
		return why, false
	}
	p, isPaused := (*lanes)[laneOf(l)]
	if !isPaused {
		return why, false
	}
	queue, _ := tasks.SplitQueue(laneOf(l))
	return pipeline.Problem{Reason: tasks.Waiting, Detail: p.Of(queue), RetryAfter: w.nextLook()}, true
}

// laneOf returns the lane in which the task of a letter died. If the letter names none that
// has such tasks, it is where single orders of its kind wait.
func laneOf(l deadletter.Letter) string {
	task, _, err := l.Task()
	if err != nil {
		return l.Queue // it makes no call
	}
	if queue, _ := tasks.SplitQueue(l.Queue); queue == task.Queue() {
		return l.Queue
	}
	return task.Queue()
}

// nextLook spreads the replays that wait, so that they do not come all at once.
func (w *pauseWatch) nextLook() time.Duration {
	turn := w.putBack.Reserve()
	if d := leastPutBack + turn.Delay(); d <= mostPutBack {
		return d
	}
	turn.Cancel()
	return mostPutBack - rand.N(mostPutBack/3) //nolint:gosec // G404: no secret
}
