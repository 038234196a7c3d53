package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/draintime"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/overview"
)

// forecaster says how fast the rest of a batch will be done, as far as Redis knows: it knows
// KooDrive's quota, the receipts of the last minute, and whether a worker runs. It does not
// know how long calls take.
type forecaster struct{ rdb redis.UniversalClient }

func newForecaster(rdb redis.UniversalClient) *forecaster { return &forecaster{rdb} }

// forecast is how fast the rest of a batch will be done, in tasks a second.
type forecast struct {
	rate       float64        // to expect; 0: not known
	isMeasured bool           // the rate is that of the last minute, and not what the quota allows
	fastest    float64        // that the quota allows; 0: not known
	unknown    string         // why the rate is not known, for people; empty: there is nothing to say
	blocked    overview.Cause // why nothing of the batch runs; its text is empty if something does
}

// forecastPatience is how long a command waits for Redis to tell what is beside the point.
const forecastPatience = time.Second

// of returns the forecast of a batch. What cannot be read counts as not known, and so does
// everything if Redis is slow: the command is about the batch, and goes on.
func (f *forecaster) of(ctx context.Context, id string) forecast {
	ctx, cancel := context.WithTimeout(ctx, forecastPatience)
	defer cancel()
	out, err := cancelable.Call(ctx, func() (forecast, error) {
		recent, err := batch.NewStore(f.rdb).Recent(ctx, id)
		if err != nil {
			recent = batch.Recent{}
		}
		if cause, err := f.blockedOf(ctx, id, recent.Kinds); err == nil && cause.Text != "" {
			return forecast{blocked: cause}, nil
		}
		quota, err := fleet.ReadQuota(ctx, f.rdb)
		if err != nil {
			quota = fleet.Quota{}
		}
		return forecastOf(quota, recent), ctx.Err()
	})
	if err != nil {
		return forecast{}
	}
	return out
}

// forecastOf prefers what was measured to what the model says, and believes no rate that
// the quota does not allow: the quota may have changed a moment ago.
func forecastOf(quota fleet.Quota, recent batch.Recent) forecast {
	if recent.IsStalled {
		return forecast{unknown: "nothing was done in the last minute"}
	}
	out := forecast{fastest: modelOf(quota, recent).Rate()}
	if out.rate = recent.Rate(); out.rate == 0 {
		out.rate = out.fastest
		return out
	}
	out.isMeasured = true
	if out.fastest > 0 && out.fastest < out.rate {
		out.rate, out.isMeasured = out.fastest, false
	}
	return out
}

// modelOf returns the model of a batch. The latest receipts say which calls its tasks make,
// and how many.
func modelOf(quota fleet.Quota, recent batch.Recent) draintime.Model {
	var calls []gate.Kind
	for _, kind := range recent.Kinds {
		if call := callOf(kind); call != "" {
			calls = append(calls, call)
		}
	}
	m := draintime.Model{Quota: quota.Limit(calls...)}
	switch attempts, ended := float64(recent.Attempts), float64(recent.Tasks); {
	case ended == 0: // each task counts as one call
	case attempts == 0:
		m.Quota = 0 // these tasks need no calls, so the quota does not limit them
	case attempts > ended:
		m.FailureShare = 1 - ended/attempts
	default:
		m.CallsPerAttempt = attempts / ended
	}
	return m
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
	// LeftSeconds is about how long the rest takes: at the rate of the last minute or, if
	// nothing was done yet, if all calls that may be made are made for it. It is 0 if that is
	// not known, and if nothing is left.
	LeftSeconds int64 `json:"left_seconds,omitempty"`
	// Held says that nothing of it runs for now; nil if it may run.
	Held *batch.Hold `json:"held,omitempty"`

	forecast forecast
}

// holdOf returns the hold of a batch, if it is held. Nobody knows if Redis is slow.
func (f *forecaster) holdOf(ctx context.Context, id string) (h batch.Hold, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, forecastPatience)
	defer cancel()
	all, err := cancelable.Call(ctx, func() (*batch.Stops, error) { return batch.NewStore(f.rdb).Stops(ctx, nil) })
	if err != nil {
		return h, false
	}
	return all.HoldNow(id, time.Now())
}

// heldText says for people that a batch is held.
func heldText(h batch.Hold) string {
	if h.Ended {
		return "a release has begun and is not finished; if none is under way, run kooworker batch release " + h.Batch + " again"
	}
	text := "until " + untilText(h.Until, "it is released") + ", by " + h.By
	if h.Reason != "" {
		text += ": " + h.Reason
	}
	return text
}

// withTimeLeft adds the time that the rest of a batch takes.
func (f *forecaster) withTimeLeft(ctx context.Context, b tasks.BatchStats) batchLeft {
	out := batchLeft{BatchStats: b}
	if b.Queued == 0 {
		return out
	}
	if h, ok := f.holdOf(ctx, b.ID); ok {
		out.Held = &h
		return out
	}
	if out.forecast = f.of(ctx, b.ID); out.forecast.rate > 0 {
		out.LeftSeconds = int64(math.Ceil(float64(b.Queued) / out.forecast.rate))
	}
	return out
}

// timeLeft is for people. It is empty if there is nothing to say.
func (b batchLeft) timeLeft() string {
	left, rate := humanize.Seconds(float64(b.LeftSeconds)), humanize.PerSecond(b.forecast.rate)
	switch {
	case b.LeftSeconds > 0 && b.forecast.isMeasured:
		return fmt.Sprintf("about %s, at the present %s", left, rate)
	case b.LeftSeconds > 0:
		return fmt.Sprintf("at least %s, at the %s that the quota or --rate allows", left, rate)
	case b.forecast.blocked.Text != "":
		return "unknown: " + b.forecast.blocked.Text
	case b.forecast.unknown != "":
		return "unknown: " + b.forecast.unknown
	default:
		return ""
	}
}

// forecastEvery is the time between two forecasts while a command waits for a batch.
const forecastEvery = 5 * time.Second
