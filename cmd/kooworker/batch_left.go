package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
)

// callLimits reads how many calls a second the workers may make.
type callLimits struct{ rdb redis.UniversalClient }

func newCallLimits(rdb redis.UniversalClient) *callLimits { return &callLimits{rdb} }

// of returns how many calls a second all workers together may make for a batch, 0 if
// that is not known. Its latest receipts say which calls its tasks make. An error counts as
// not known, and so does a Redis that is slow: the command is about the batch, and goes on.
func (l *callLimits) of(ctx context.Context, id string) float64 {
	const patience = time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	limit, _ := cancelable.Call(ctx, func() (float64, error) {
		quota, err := fleet.ReadQuota(ctx, l.rdb)
		if err != nil {
			return 0, err
		}
		latest, err := batch.NewStore(l.rdb).LatestKinds(ctx, id)
		if err != nil {
			return 0, err
		}
		var calls []gate.Kind
		for _, kind := range latest {
			if call := callOf(kind); call != "" {
				calls = append(calls, call)
			}
		}
		return quota.Limit(calls...), nil
	})
	return limit
}

// callOf returns the call that a task makes once at least, "" if it need not make any.
func callOf(kind tasks.Kind) gate.Kind {
	switch kind {
	case tasks.KindDeviceUnbind:
		return gate.Unbind
	case tasks.KindLockRelease:
		return gate.Release
	case tasks.KindUserOffboard:
		return gate.List
	default:
		return ""
	}
}

// batchLeft is what is known of a batch.
type batchLeft struct {
	tasks.BatchStats
	// LeftSeconds is how long the rest takes at least, if all calls that may be made are
	// made for it; 0 if that is not known, and if nothing is left.
	LeftSeconds int64 `json:"left_seconds,omitempty"`

	limit float64 // calls a second; 0 if not known
}

// withTimeLeft adds the time that the rest of a batch takes.
func (l *callLimits) withTimeLeft(ctx context.Context, b tasks.BatchStats) batchLeft {
	out := batchLeft{BatchStats: b}
	if b.Queued > 0 {
		if out.limit = l.of(ctx, b.ID); out.limit > 0 {
			out.LeftSeconds = int64(math.Ceil(float64(b.Queued) / out.limit))
		}
	}
	return out
}

// timeLeft is for people.
func (b batchLeft) timeLeft() string {
	return fmt.Sprintf("at least %s, at %s", terminal.HumanDuration(float64(b.LeftSeconds)), terminal.PerSecond(b.limit))
}

// readLimitEvery is the time between two readings while a command waits for a batch.
const readLimitEvery = 5 * time.Second
