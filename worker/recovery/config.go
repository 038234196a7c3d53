package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// Config is what a Repairer needs. Redis, Parker and Receipts are required; a zero
// in any other field means its default.
type Config struct {
	// Redis is the client of the queues. It should honour contexts
	// (ContextTimeoutEnabled), and stays the caller's to close after Run.
	Redis redis.UniversalClient
	// Parker stores the dead letters of tasks that must not run again.
	Parker Parker
	// Receipts records what became of tasks.
	Receipts Receipts

	// Queues are the queues to repair. Default: those of tasks.QueueWeights.
	Queues []string
	// Interval is the time between two passes, give or take a fifth. More than
	// 0, at most 3 s. Default 1 s.
	Interval time.Duration
	// MinUptime is for how long Redis must have answered without an outage before
	// anything is reaped. It should be longer than the time between two heartbeats
	// of asynq's servers, 5 s. More than 0. Default 8 s.
	MinUptime time.Duration
	// MaxCrashes is how many workers a task may kill in a row, each time as the only
	// suspect that was being called. The last of these crashes parks it. Where other
	// workers die at the same time, it takes three times as many. At least 1. Default 3.
	MaxCrashes int

	// IndexDeath is called before a dead letter is put back among the parked ones: it
	// has died again. On an error the letter stays where it is, and another pass tries again.
	// Default: nothing is called.
	IndexDeath func(ctx context.Context, l deadletter.Letter) error

	// Hold makes the repairer repair nothing, and leave the lock to another one, while
	// it returns true. It must not block. Default: nothing does.
	Hold func() bool

	// Logger receives one line for each dead worker, and one for other repairs of a kind that
	// were made together, sampled. Default: none.
	Logger *zap.Logger
	// OnRepair is called for each repair: n tasks of a queue were repaired, or n is 1
	// and the queue itself was repaired. It must not block. Default: nothing is called.
	OnRepair func(queue string, repair Repair, n int)
}

// DefaultMaxCrashes is the default of Config.MaxCrashes.
const DefaultMaxCrashes = 3

// maxInterval is less than maxGap, so that the time between two passes does not
// count as an outage of Redis.
const maxInterval = 3 * time.Second

func (c Config) withDefaults() Config {
	if c.Queues == nil {
		c.Queues = slices.Sorted(maps.Keys(tasks.QueueWeights()))
	}
	c.Interval = cmp.Or(c.Interval, time.Second)
	c.MinUptime = cmp.Or(c.MinUptime, 8*time.Second)
	c.MaxCrashes = cmp.Or(c.MaxCrashes, DefaultMaxCrashes)
	if c.IndexDeath == nil {
		c.IndexDeath = func(context.Context, deadletter.Letter) error { return nil }
	}
	if c.Hold == nil {
		c.Hold = func() bool { return false }
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.OnRepair == nil {
		c.OnRepair = func(string, Repair, int) {}
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Redis == nil:
		return errors.New("recovery: Config.Redis is required")
	case c.Parker == nil:
		return errors.New("recovery: Config.Parker is required")
	case c.Receipts == nil:
		return errors.New("recovery: Config.Receipts is required")
	case c.Interval < 0 || c.Interval > maxInterval:
		return fmt.Errorf("recovery: interval is %s; want more than 0 and at most %s", c.Interval, maxInterval)
	case c.MinUptime < 0:
		return fmt.Errorf("recovery: min uptime is %s; want more than 0", c.MinUptime)
	case c.MaxCrashes < 1:
		return fmt.Errorf("recovery: max crashes is %d; want at least 1", c.MaxCrashes)
	}
	for _, name := range c.Queues {
		// A brace would change the hash tag. The others would be read as a pattern
		// by SCAN.
		if name == "" || strings.ContainsAny(name, `{}*?[]\`) {
			return fmt.Errorf("recovery: %q cannot be a queue's name; want some text without {}*?[]\\", name)
		}
	}
	return nil
}
