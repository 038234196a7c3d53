// Package fleet is what the workers over one Redis know of each other: how many
// are alive; what KooDrive's quota is, and who makes the next calls of it; and whose calls
// have failed since the last success, so that they notice an outage together.
//
// It owns the keys {kooworker:fleet}:* in Redis. A worker sends a heartbeat twice a
// second, with its news, and keeps the reply as a snapshot. While Redis does not
// answer, the snapshot stays as it was. While KooDrive's quota limits the calls, a
// worker that has tasks asks ten times a second for the tokens of its next calls. So no
// call to KooDrive has to ask Redis first.
//
// Package worker runs it, and gives it to package gate as its Fleet. Every two seconds a
// worker also publishes a [Report] of itself. Commands read the quota with [ReadQuota], how
// many workers live with [CountWorkers], and the reports with [ReadReports]. It imports gate for
// the types, and must not import asynq.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/worker/gate"
)

// Fleet is one worker's view of all workers. It is safe for concurrent use.
type Fleet struct {
	rdb  redis.UniversalClient
	id   string
	log  *zap.Logger
	wake chan struct{} // asks for a heartbeat before its time

	mu     sync.Mutex
	live   int
	news   *gate.News
	unsent gate.News
	logged map[string]loggedQuota // by what they are for
}

var _ gate.Fleet = (*Fleet)(nil)

const (
	// heartbeatEvery is the time between two heartbeats of a worker, and the
	// greatest age of the snapshot.
	heartbeatEvery = 500 * time.Millisecond
	// urgentEvery is the least time between two heartbeats if there is a failure to
	// tell.
	urgentEvery = 50 * time.Millisecond
	// heartbeatTTL is how long a worker counts as alive after its last heartbeat.
	heartbeatTTL = 5 * time.Second
	// redisTimeout bounds one exchange with Redis.
	redisTimeout = 2 * time.Second
)

// New returns the view of a worker that no other worker knows yet. It becomes
// known with Run.
func New(rdb redis.UniversalClient, log *zap.Logger) *Fleet {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Fleet{
		rdb: rdb, log: log, live: 1, wake: make(chan struct{}, 1), news: &gate.News{}, logged: make(map[string]loggedQuota),
		id: fmt.Sprintf("%s:%d:%s", host, os.Getpid(), uuid.NewString()),
	}
}

// Run sends heartbeats until ctx ends, and then deregisters the worker.
func (f *Fleet) Run(ctx context.Context) {
	defer f.deregister(context.WithoutCancel(ctx))
	for {
		f.heartbeat(ctx)
		urgent, regular := time.After(urgentEvery), time.After(heartbeatEvery)
		select {
		case <-ctx.Done():
			return
		case <-urgent:
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-regular:
		}
	}
}

func (f *Fleet) heartbeat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	f.mu.Lock()
	told := f.unsent
	f.unsent = gate.News{}
	f.mu.Unlock()
	state, err := f.exchange(ctx, told)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.unsent = gate.News{Failures: append(told.Failures, f.unsent.Failures...), Successes: append(told.Successes, f.unsent.Successes...)}
		f.trim()
		if !errors.Is(err, context.Canceled) {
			f.log.Warn("cannot read the state of the fleet from Redis; the last known state stays in use", zap.Error(err))
		}
		return
	}
	f.live, f.news = state.live, &state.news
}

// exchange sends a heartbeat.
func (f *Fleet) exchange(ctx context.Context, told gate.News) (state, error) {
	sent := time.Now()
	args, err := heartbeatArgs(sent, f.id, told)
	if err != nil {
		return state{}, err
	}
	reply, err := heartbeatCmd.Run(ctx, f.rdb, keys(), args...).Slice()
	if err != nil {
		return state{}, err
	}
	return parse(sent, reply)
}

// maxUnsent bounds the news that wait for a heartbeat.
const maxUnsent = 200

// trim keeps the latest of the news that wait. The caller holds the lock.
func (f *Fleet) trim() {
	f.unsent.Failures = f.unsent.Failures[max(0, len(f.unsent.Failures)-maxUnsent):]
	f.unsent.Successes = f.unsent.Successes[max(0, len(f.unsent.Successes)-maxUnsent):]
}

// deregister lets the other workers know that this one is gone.
func (f *Fleet) deregister(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	if err := f.rdb.ZRem(ctx, workersKey, f.id).Err(); err != nil {
		f.log.Debug("cannot deregister this worker from the fleet; its last heartbeat expires soon", zap.Error(err))
	}
}

// Snapshot implements gate.Fleet.
func (f *Fleet) Snapshot() gate.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return gate.Snapshot{Live: f.live, News: f.news}
}

// Tell implements gate.Fleet. If the process dies before the next heartbeat, the
// others do not learn of it, and find out by their own calls.
func (f *Fleet) Tell(n gate.News) {
	f.mu.Lock()
	f.unsent.Failures = append(f.unsent.Failures, n.Failures...)
	f.unsent.Successes = append(f.unsent.Successes, n.Successes...)
	f.trim()
	f.mu.Unlock()
	if len(n.Failures) == 0 {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
