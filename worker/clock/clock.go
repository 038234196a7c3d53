// Package clock compares this machine's clock with Redis' clock, which is the clock of
// the whole fleet. asynq writes leases, heartbeats and due times by the worker's clock,
// and everybody else judges them by another. So a worker whose clock is wrong must not
// take tasks.
//
// Package worker runs one [Clock] and asks it. The package imports go-redis and zap,
// and nothing of this module.
//
// # How it is measured
//
// Redis tells its TIME once a second. Redis has read its clock at some moment of the
// round trip, so the difference is known give or take half of the round trip. A
// difference counts only as far as it exceeds that, and a round trip of more than two
// seconds tells nothing.
//
// Between two measurements the machine's clock may jump, for example when NTP sets it,
// or when a virtual machine wakes up. The process' monotonic clock does not jump. So
// Wrong notices that at once, without asking Redis.
//
// # What a wrong clock means
//
// While the clock is wrong by more than Limit, the worker takes no tasks, forwards
// none that are due, and repairs nothing. It is not ready, and its log says so once.
// What it has in flight goes on. asynq extends these leases by the wrong clock:
//
//   - The clock is behind: the leases look expired. Package recovery leaves them alone
//     as long as the worker lists the tasks as its own.
//   - The clock is ahead: package recovery shortens leases that end too late, so that
//     the tasks run again soon after this worker has died.
//   - A task that has failed meanwhile waits as much longer or shorter as the clock is
//     wrong.
//
// asynq itself measures its leases by the monotonic clock, so a jump ends no call.
//
// If Redis' own clock is wrong, all workers stop: nobody can tell who is right, and
// leases must be judged by one clock.
package clock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	// Limit is the difference from which a clock is wrong. Leases last 30 s, and are
	// reaped 2 s after their end.
	Limit = 5 * time.Second
	// interval is the time between two measurements.
	interval = time.Second
	// maxRoundTrip is the longest round trip that still tells the time.
	maxRoundTrip = 2 * time.Second
)

// Redis tells its time. Every client of go-redis does.
type Redis interface {
	Time(ctx context.Context) *redis.TimeCmd
}

// Clock knows by how much this machine's clock differs from Redis' clock. It is safe
// for concurrent use.
type Clock struct {
	redis Redis
	log   *zap.Logger
	wall  func() time.Time // what the machine's clock shows

	mu     sync.Mutex
	known  bool
	ahead  time.Duration // this machine's clock before Redis', when it was measured
	within time.Duration // half of the round trip
	at     time.Time     // when it was measured, with a monotonic reading
	atWall time.Time     // the same by the machine's clock
	logged bool          // the log says that the clock is wrong
}

// New returns a clock that does not know anything yet; see Measure and Run.
func New(rdb Redis, log *zap.Logger) *Clock {
	return &Clock{redis: rdb, log: log, wall: time.Now}
}

// Run measures until ctx ends.
func (c *Clock) Run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		_ = c.Measure(ctx) // Redis is away: the last measurement holds, and jumps are still noticed
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Measure compares the clocks once. An error means that nothing was learned.
func (c *Clock) Measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxRoundTrip)
	defer cancel()
	sent, sentWall := time.Now(), c.wall().Round(0)
	theirs, err := c.redis.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("ask Redis for its time: %w", err)
	}
	half := time.Since(sent) / 2
	if half > maxRoundTrip/2 {
		return errors.New("Redis took too long to tell its time")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.ahead, c.within, c.at, c.atWall = true, sentWall.Add(half).Sub(theirs), half, sent, sentWall
	c.logChange()
	return nil
}

// logChange logs that the clock is wrong, or right again.
func (c *Clock) logChange() {
	ahead, wrong := c.state()
	if wrong == c.logged {
		return
	}
	c.logged = wrong
	if wrong {
		c.log.Error("this machine's clock is not Redis' clock: no tasks are taken until it is right; check NTP on both machines",
			zap.Duration("ahead", ahead.Round(time.Millisecond)), zap.Duration("limit", Limit))
		return
	}
	c.log.Info("this machine's clock is right again: tasks are taken", zap.Duration("ahead", ahead.Round(time.Millisecond)))
}

// state returns by how much the clock is ahead now, and whether that is too much. The
// clock has jumped if it shows another time than the monotonic clock leads to.
func (c *Clock) state() (ahead time.Duration, wrong bool) {
	ahead = c.ahead + c.wall().Round(0).Sub(c.atWall) - time.Since(c.at)
	return ahead, ahead.Abs()-c.within > Limit
}

// Ahead returns by how much this machine's clock is before Redis' clock, give or take within;
// less than 0 if it is behind. known is false if they were never compared.
func (c *Clock) Ahead() (ahead, within time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		return 0, 0, false
	}
	ahead, _ = c.state()
	return ahead, c.within, true
}

// Wrong reports whether the clock must not be used: it differs from Redis' clock by
// more than Limit, or was never compared. It asks nobody.
func (c *Clock) Wrong() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, wrong := c.state()
	return !c.known || wrong
}

// Check returns an error while the clock is wrong, for /readyz.
func (c *Clock) Check(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ahead, wrong := c.state()
	switch {
	case !c.known:
		return errors.New("not yet compared with Redis' clock")
	case wrong && ahead > 0:
		return fmt.Errorf("%s ahead of Redis' clock; want at most %s", ahead.Round(time.Millisecond), Limit)
	case wrong:
		return fmt.Errorf("%s behind Redis' clock; want at most %s", -ahead.Round(time.Millisecond), Limit)
	}
	return nil
}
