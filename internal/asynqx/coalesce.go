package asynqx

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// CoalesceHook returns a go-redis hook for the Redis client of the asynq servers. Scripts
// that many goroutines run at the same time go to Redis together: while one round trip is
// under way, those that come meanwhile wait for the next. rdb is that client. The hook must
// be the last one that is added, so that the others see single commands.
//
// A script that was sent is waited for, even if its context ends: asynq's scripts must not be
// cut short. One whose deadline is over before it is sent is not sent.
func CoalesceHook(rdb redis.UniversalClient) redis.Hook {
	c := &coalescer{rdb: rdb}
	return commandHook(func(next redis.ProcessHook) redis.ProcessHook {
		return func(ctx context.Context, cmd redis.Cmder) error {
			if cmd.Name() != "evalsha" {
				return next(ctx, cmd)
			}
			return c.process(ctx, cmd)
		}
	})
}

// coalescer collects scripts.
type coalescer struct {
	rdb redis.UniversalClient

	mu      sync.Mutex
	waiting []*sending
	flying  int // round trips
}

// sending is a script on its way.
type sending struct {
	cmd      redis.Cmder
	deadline time.Time // zero for none
	done     chan struct{}
}

const (
	// mostFlying is how many round trips are under way at most. With fewer, scripts wait;
	// with more, fewer of them go together.
	mostFlying = 2
	// mostTogether bounds how many scripts go together.
	mostTogether = 200
	// sendTimeout bounds a round trip of scripts without a deadline.
	sendTimeout = 30 * time.Second
)

func (c *coalescer) process(ctx context.Context, cmd redis.Cmder) error {
	s := &sending{cmd: cmd, done: make(chan struct{})}
	s.deadline, _ = ctx.Deadline()
	c.mu.Lock()
	c.waiting = append(c.waiting, s)
	starts := c.flying < mostFlying
	if starts {
		c.flying++
	}
	c.mu.Unlock()
	if starts {
		c.send()
	}
	<-s.done
	return cmd.Err()
}

// send sends what waits. Only the first batch is sent by this goroutine, which waits for it;
// another one goes on.
func (c *coalescer) send() {
	batch := c.next()
	if len(batch) == 0 {
		return
	}
	c.roundTrip(batch)
	go func() {
		for batch := c.next(); len(batch) > 0; batch = c.next() {
			c.roundTrip(batch)
		}
	}()
}

// next takes what waits. If nothing does, the caller's round trips are over.
func (c *coalescer) next() []*sending {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), mostTogether)
	if n == 0 {
		c.flying--
		return nil
	}
	batch := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	return batch
}

func (c *coalescer) roundTrip(batch []*sending) {
	now := time.Now()
	until := now.Add(sendTimeout)
	p := c.rdb.Pipeline()
	sent := 0
	for _, s := range batch {
		switch {
		case s.deadline.IsZero():
		case !s.deadline.After(now):
			s.cmd.SetErr(context.DeadlineExceeded)
			continue
		case s.deadline.Before(until):
			until = s.deadline
		}
		_ = p.Process(context.Background(), s.cmd) // it only collects
		sent++
	}
	if sent > 0 {
		ctx, cancel := context.WithDeadline(context.Background(), until)
		_, _ = p.Exec(ctx) // each command has its own error
		cancel()
	}
	for _, s := range batch {
		close(s.done)
	}
}
