// Package wrongclock lets tests run asynq servers on a machine whose clock is wrong.
// No test can set the clock that asynq reads. So a hook on the server's Redis client
// changes the times that the server writes and asks for, and the TIME that Redis tells.
// Only tests may import it.
package wrongclock

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Clock is a wrong clock. It is a go-redis hook.
type Clock struct{ ahead atomic.Int64 }

var _ redis.Hook = (*Clock)(nil)

// New returns a clock that is ahead of the right one.
func New(ahead time.Duration) *Clock {
	c := new(Clock)
	c.Set(ahead)
	return c
}

// Set makes the clock jump.
func (c *Clock) Set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// DialHook implements redis.Hook; it changes nothing.
func (c *Clock) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook. It changes the leases of the tasks that package
// fetch takes. The scripts of asynq's servers have come by already, before they went together.
func (c *Clock) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			const keys, args = 4, 3
			a := cmd.Args()
			if len(a) != 3+keys+args || a[2] != keys {
				continue
			}
			if lease, ok := a[3+keys].(int64); ok { // in µs
				a[3+keys] = lease + c.ahead.Load()/int64(time.Microsecond)
			}
		}
		return next(ctx, cmds)
	}
}

// ProcessHook implements redis.Hook.
func (c *Clock) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ahead := time.Duration(c.ahead.Load())
		c.shift(cmd.Args(), ahead)
		err := next(ctx, cmd)
		if told, ok := cmd.(*redis.TimeCmd); ok && err == nil {
			told.SetVal(told.Val().Add(-ahead)) // to this machine it looks as if Redis were wrong
		}
		return err
	}
}

// shift changes the times among the arguments of a command, in place.
func (c *Clock) shift(args []any, ahead time.Duration) {
	switch args[0] {
	case "zadd": // leases that are extended, and heartbeats
		for i := range args {
			if score, ok := args[i].(float64); ok {
				args[i] = score + ahead.Seconds()
			}
		}
	case "evalsha", "eval":
		n, _ := args[2].(int)
		key, _ := args[3].(string)
		argv := args[3+n:]
		seconds := func(i int) {
			if i >= len(argv) {
				return // a script of our own with as many keys
			}
			if at, ok := argv[i].(int64); ok {
				argv[i] = at + int64(ahead.Seconds())
			}
		}
		switch {
		case n == 4 && strings.HasSuffix(key, ":pending"): // takes a task, with a lease
			seconds(0)
		case n == 2 && len(argv) == 4: // forwards what is due
			seconds(0)
		case n == 1 && strings.HasSuffix(key, ":lease"): // lists what has expired
			seconds(0)
		case n == 8 && len(argv) > 2: // retries
			seconds(2)
		}
	}
}
