// Package forecast says how long the rest of a batch takes, and why nothing of it runs if
// that is so: Redis knows KooDrive's quota, the receipts of the last minute, whether a worker
// runs and what is paused or held. Package draintime below it has the model.
//
// The batch commands and the dashboard show it. It only reads, and owns no key in Redis. It
// must not import package worker, nor what calls KooDrive.
package forecast

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/overview"
)

// Forecaster says how fast the rest of a batch will be done, as far as Redis knows: it knows
// KooDrive's quota, the receipts of the last minute, and whether a worker runs. It does not
// know how long calls take.
type Forecaster struct{ rdb redis.UniversalClient }

// New returns a Forecaster over a client, which stays the caller's to close.
func New(rdb redis.UniversalClient) *Forecaster { return &Forecaster{rdb} }

// Forecast is how fast the rest of a batch will be done, in tasks a second.
type Forecast struct {
	Rate       float64        // to expect; 0: not known
	IsMeasured bool           // the rate is that of the last minute, and not what the quota allows
	Fastest    float64        // that the quota allows; 0: not known
	Unknown    string         // why the rate is not known, for people; empty: there is nothing to say
	Blocked    overview.Cause // why nothing of the batch runs; its text is empty if something does
}

// patience is how long a command waits for Redis to tell what is beside the point.
const patience = time.Second

// Of returns the forecast of a batch. What cannot be read counts as not known, and so does
// everything if Redis is slow: the command is about the batch, and goes on.
func (f *Forecaster) Of(ctx context.Context, id string) Forecast {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := cancelable.Call(ctx, func() (Forecast, error) {
		recent, err := batch.NewStore(f.rdb).Recent(ctx, id)
		if err != nil {
			recent = batch.Recent{}
		}
		if cause, err := f.blockedOf(ctx, id, recent.Kinds); err == nil && cause.Text != "" {
			return Forecast{Blocked: cause}, nil
		}
		quota, err := fleet.ReadQuota(ctx, f.rdb)
		if err != nil {
			quota = fleet.Quota{}
		}
		return forecastOf(quota, recent), ctx.Err()
	})
	if err != nil {
		return Forecast{}
	}
	return out
}

// forecastOf prefers what was measured to what the model says, and believes no rate that
// the quota does not allow: the quota may have changed a moment ago.
func forecastOf(quota fleet.Quota, recent batch.Recent) Forecast {
	if recent.IsStalled {
		return Forecast{Unknown: "nothing was done in the last minute"}
	}
	out := Forecast{Fastest: overview.ModelOf(quota, recent).Rate()}
	if out.Rate = recent.Rate(); out.Rate == 0 {
		out.Rate = out.Fastest
		return out
	}
	out.IsMeasured = true
	if out.Fastest > 0 && out.Fastest < out.Rate {
		out.Rate, out.IsMeasured = out.Fastest, false
	}
	return out
}

// Batch is what is known of a batch.
type Batch struct {
	tasks.BatchStats
	// LeftSeconds is about how long the rest takes: at the rate of the last minute or, if
	// nothing was done yet, if all calls that may be made are made for it. It is 0 if that is
	// not known, and if nothing is left.
	LeftSeconds int64 `json:"left_seconds,omitempty"`
	// Held says that nothing of it runs for now; nil if it may run.
	Held *batch.Hold `json:"held,omitempty"`

	Forecast Forecast `json:"-"`
}

// holdOf returns the hold of a batch, if it is held. Nobody knows if Redis is slow.
func (f *Forecaster) holdOf(ctx context.Context, id string) (h batch.Hold, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := cancelable.Call(ctx, func() (*batch.Stops, error) { return batch.NewStore(f.rdb).Stops(ctx, nil) })
	if err != nil {
		return h, false
	}
	return all.HoldNow(id, time.Now())
}

// HeldText says for people that a batch is held.
func HeldText(h batch.Hold) string {
	if h.Ended {
		return "a release has begun and is not finished; if none is under way, run kooworker batch release " + h.Batch + " again"
	}
	until := "it is released"
	if !h.Until.IsZero() {
		until = h.Until.Format(time.RFC3339)
	}
	text := "until " + until + ", by " + h.By
	if h.Reason != "" {
		text += ": " + h.Reason
	}
	return text
}

// WithTimeLeft adds the time that the rest of a batch takes.
func (f *Forecaster) WithTimeLeft(ctx context.Context, b tasks.BatchStats) Batch {
	out := Batch{BatchStats: b}
	if b.Queued == 0 {
		return out
	}
	if h, ok := f.holdOf(ctx, b.ID); ok {
		out.Held = &h
		return out
	}
	if out.Forecast = f.Of(ctx, b.ID); out.Forecast.Rate > 0 {
		out.LeftSeconds = int64(math.Ceil(float64(b.Queued) / out.Forecast.Rate))
	}
	return out
}

// TimeLeft is for people. It is empty if there is nothing to say.
func (b Batch) TimeLeft() string {
	left, rate := humanize.Seconds(float64(b.LeftSeconds)), humanize.PerSecond(b.Forecast.Rate)
	switch {
	case b.LeftSeconds > 0 && b.Forecast.IsMeasured:
		return fmt.Sprintf("about %s, at the present %s", left, rate)
	case b.LeftSeconds > 0:
		return fmt.Sprintf("at least %s, at the %s that the quota or --rate allows", left, rate)
	case b.Forecast.Blocked.Text != "":
		return "unknown: " + b.Forecast.Blocked.Text
	case b.Forecast.Unknown != "":
		return "unknown: " + b.Forecast.Unknown
	default:
		return ""
	}
}
