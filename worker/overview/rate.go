package overview

import (
	"math"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/forecast/draintime"
	"github.com/kooworker/kooworker/worker/gate"
)

// setRate sets how fast a batch gets on, and how long the rest takes, by its latest receipts. It
// promises nothing while the calls of its tasks are not made, and believes no rate that the quota
// does not allow: what was done before a quota was used up says nothing of the time after it.
func (v *Overview) setRate(b *Batch, recent batch.Recent) {
	if !v.unread["workers"] && v.standstill(callsOf(recent.Kinds)).Text != "" {
		return
	}
	b.Rate = recent.Rate()
	if fastest := ModelOf(v.limits, recent).Rate(); fastest > 0 {
		b.Rate = min(b.Rate, fastest)
	}
	if b.Rate > 0 && b.Queued > 0 {
		b.LeftSeconds = int64(math.Ceil(float64(b.Queued) / b.Rate))
	}
}

// callsOf returns the calls that tasks of some kinds make.
func callsOf(kinds []tasks.Kind) (calls []gate.Kind) {
	for _, kind := range kinds {
		if call := CallOf(kind); call != "" {
			calls = append(calls, call)
		}
	}
	return calls
}

// ModelOf returns the model of a batch. The latest receipts say which calls its tasks make,
// and how many.
func ModelOf(quota fleet.Quota, recent batch.Recent) draintime.Model {
	m := draintime.Model{Quota: quota.Limit(callsOf(recent.Kinds)...)}
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

// CallOf returns the call that a task makes once at least, "" if it need not make any.
func CallOf(kind tasks.Kind) gate.Kind {
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
