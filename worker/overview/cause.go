package overview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/outage"
)

// Cause is one thing that stands in the way, in words for people.
type Cause struct {
	// Text is a sentence without its full stop.
	Text string `json:"text"`
	// Hint says what to do about it.
	Hint string `json:"hint"`
	// Wrong is false for what needs nobody: the work goes on, though more slowly.
	Wrong bool `json:"wrong"`
}

// Unreachable is the cause if Redis does not answer, or with an error only.
func Unreachable(err error) Cause {
	const silent = "Redis does not answer: " // those who return the error may have said so
	c := Cause{
		Text: silent + strings.ReplaceAll(err.Error(), silent, ""),
		Hint: outage.Hint(err) + "; workers go on by themselves when it is back",
	}
	if reply, ok := errors.AsType[redis.Error](err); ok {
		c.Text = "Redis refuses to serve: " + strings.TrimSuffix(reply.Error(), ".")
	}
	return c.wrong()
}

func (c Cause) wrong() Cause { c.Wrong = true; return c }

// Causes returns what stands in the way, the gravest first: what stops all work, what stops
// some of it, what is lost or late, and last what only slows the work down.
func (v *Overview) Causes() (all []Cause) {
	for _, find := range []func() []Cause{
		v.redisRefuses, v.noWorkers, v.callsStopped, v.workersIdle, v.queuesPaused, v.redisUnfit, v.deadLetters, v.batchesLate, v.sweepsHeldBack, v.failing,
		v.batchesHeld, v.quotaReached,
	} {
		all = append(all, find()...)
	}
	return all
}

// redisRefuses is for a Redis that can be read, and not written to.
func (v *Overview) redisRefuses() []Cause {
	if v.Redis.refused == nil {
		return nil
	}
	return []Cause{Unreachable(v.Redis.refused)}
}

// noWorkers says nothing of a Redis that refuses what is written: workers report there.
func (v *Overview) noWorkers() []Cause {
	if v.Workers.Live > 0 || v.Redis.refused != nil {
		return nil
	}
	c := Cause{Text: "no worker runs", Hint: "start one with kooworker worker; if one should run, look at its log"}
	if n := v.Waiting(); n > 0 {
		c.Text += fmt.Sprintf(", and %s", waits(n))
	}
	return []Cause{c.wrong()}
}

// Standstill returns why none of some kinds of calls is made: no worker runs, all of them are
// idle, or they have stopped these calls. The text is empty if that is not so. It takes two
// round trips, and a third one if no worker runs.
func Standstill(ctx context.Context, rdb redis.UniversalClient, calls []gate.Kind) (Cause, error) {
	var v Overview
	if err := v.readWorkers(ctx, rdb); err != nil {
		return Cause{}, err
	}
	if v.Workers.Live == 0 {
		v.Redis.refused = outage.Ask(ctx, rdb, outage.Keys(tasks.Queues()))
	}
	return v.standstill(calls), nil
}

// standstill is Standstill of the workers that were read.
func (v *Overview) standstill(calls []gate.Kind) Cause {
	only := Overview{Workers: v.Workers, Redis: v.Redis}
	for _, s := range v.Gate.Stopped {
		if slices.Contains(calls, s.Call) && makeNone(v.Workers.List, s.Call) {
			only.Gate.Stopped = append(only.Gate.Stopped, s)
		}
	}
	all := append(only.redisRefuses(), only.noWorkers()...)
	if !slices.ContainsFunc(v.Workers.List, func(r fleet.Report) bool { return r.Problem == "" }) {
		all = append(all, only.workersIdle()...)
	}
	all = append(all, only.callsStopped()...)
	if len(all) == 0 {
		return Cause{}
	}
	return all[0]
}

// workersIdle are workers that take no tasks.
func (v *Overview) workersIdle() (all []Cause) {
	var idle []string
	problem := ""
	for _, w := range v.Workers.List {
		if w.Problem != "" {
			idle, problem = append(idle, fmt.Sprintf("process %d on %s", w.PID, w.Host)), w.Problem
		}
	}
	if len(idle) == 0 {
		return nil
	}
	return []Cause{Cause{
		Text: fmt.Sprintf("%d of %s take no tasks (%s): %s", len(idle), humanize.Count(v.Workers.Live, "workers"), strings.Join(idle[:min(len(idle), 3)], ", "), problem),
		Hint: "set the clock there by NTP; kooworker doctor compares the clocks",
	}.wrong()}
}

// callsStopped are calls that workers do not make.
func (v *Overview) callsStopped() (all []Cause) {
	var reasons []tasks.Reason
	for _, s := range v.Gate.Stopped {
		if !slices.Contains(reasons, s.Reason) {
			reasons = append(reasons, s.Reason)
		}
	}
	for _, reason := range reasons {
		var calls []string
		var since time.Time
		workers := 0
		for _, s := range v.Gate.Stopped {
			if s.Reason == reason {
				calls = append(calls, string(s.Call))
				workers = max(workers, s.Workers)
				if since.IsZero() || s.Since.Before(since) {
					since = s.Since
				}
			}
		}
		c := Cause{Text: stoppedText(reason, calls), Hint: stoppedHint(reason)}.wrong()
		if !since.IsZero() {
			c.Text += ", since " + since.Local().Format(time.DateTime)
		}
		if workers < v.Workers.Live {
			c.Text += fmt.Sprintf(", as %d of %s see it", workers, humanize.Count(v.Workers.Live, "workers"))
		}
		c.Text += fmt.Sprintf(" (reason %s); tasks wait, and none is charged", reason)
		all = append(all, c)
	}
	return all
}

// stoppedText says why calls are not made.
func stoppedText(reason tasks.Reason, calls []string) string {
	what := "calls of kind " + strings.Join(calls, ", ") + " stop"
	switch reason {
	case tasks.Throttled:
		return "KooDrive's quota is used up: " + what
	case tasks.Unauthorized:
		return "KooDrive refuses the credential: " + what
	case tasks.Misrouted:
		return "what answers at --koodrive-url is not KooDrive: " + what
	case tasks.Forbidden, tasks.Invalid, tasks.Rejected:
		return "KooDrive refuses the calls of all users: " + what
	case tasks.Network:
		return "KooDrive cannot be reached: " + what
	case tasks.TimedOut:
		return "KooDrive does not answer in time: " + what
	case tasks.Protocol:
		return "KooDrive's answers make no sense: " + what
	default:
		return "KooDrive fails: " + what
	}
}

// stoppedHint says what to do about calls that are not made for a reason.
func stoppedHint(reason tasks.Reason) string {
	if reason == tasks.Throttled {
		return "calls resume when the quota's window ends; if that is too slow, have the quota raised"
	}
	return gate.BreakerHint(reason)
}

func (v *Overview) queuesPaused() (all []Cause) {
	for _, q := range v.Queues {
		for _, pause := range q.Pauses {
			c := Cause{Text: pause.String(), Hint: "kooworker queue resume " + q.Name}
			if q.Pending > 0 {
				c.Text += fmt.Sprintf(" (%s)", waits(q.Pending))
			}
			all = append(all, c.wrong())
		}
	}
	return all
}

func (v *Overview) redisUnfit() (all []Cause) {
	for _, p := range v.Redis.Problems {
		all = append(all, Cause{Text: "this Redis may lose tasks: " + p.Text, Hint: p.Hint}.wrong())
	}
	return all
}

// deadLetters has one cause for all dead letters: the hint is about the most frequent
// reason, and the table of reasons has the others.
func (v *Overview) deadLetters() []Cause {
	if v.Dead.Total == 0 {
		return nil
	}
	reasons := MostFrequent(v.Dead.ByReason)
	c := Cause{Text: humanize.Count(v.Dead.Total, "dead letters"), Hint: "kooworker dead list shows them"}
	var parts []string
	for _, reason := range reasons[:min(len(reasons), 4)] {
		parts = append(parts, fmt.Sprintf("%d %s", v.Dead.ByReason[reason], reason))
	}
	if len(reasons) > 4 {
		parts = append(parts, "and others")
	}
	if len(parts) > 0 {
		c.Text += ": " + strings.Join(parts, ", ")
		c.Hint = fmt.Sprintf("%s: %s; then kooworker dead replay --reason %s", reasons[0], reasons[0].Hint(), reasons[0])
	}
	return []Cause{c.wrong()}
}

func (v *Overview) batchesLate() (all []Cause) {
	if v.Batches.Late == 0 {
		return nil
	}
	c := Cause{Text: fmt.Sprintf("%d %s late", v.Batches.Late, humanize.Plural(v.Batches.Late, "batch is", "batches are")), Hint: "kooworker batch list"}
	if len(v.Batches.List) > 0 && v.Batches.List[0].Late {
		b := v.Batches.List[0]
		c.Text += fmt.Sprintf(": %s was due by %s, and has %d queued", b.ID, b.DueBy.Local().Format(time.DateTime), b.Queued)
		c.Hint = "kooworker batch show " + b.ID + " says how long the rest takes"
	}
	return []Cause{c.wrong()}
}

func (v *Overview) sweepsHeldBack() (all []Cause) {
	for _, s := range v.Locks.Sweeps {
		if s.HeldBack > 0 {
			all = append(all, Cause{
				Text: fmt.Sprintf("the last sweep of the %s held back %d of %s: %s", s.Source, s.HeldBack, humanize.Count(s.Stale, "stale locks"), s.Why),
				Hint: sweepHint(s),
			}.wrong())
		}
	}
	return all
}

func sweepHint(s locks.Sweep) string {
	return "check that locks are renewed; kooworker locks sweep --dry-run --force lists them" +
		map[bool]string{true: "", false: " with the flags of the source"}[s.Source == tasks.SourceLedger]
}

// failing are tasks that wait for another attempt while calls are made.
func (v *Overview) failing() (all []Cause) {
	if len(v.Gate.Stopped) > 0 {
		return nil // that is why
	}
	n, reasons := v.retrying()
	if n == 0 || reasons[0] == "" || reasons[0] == tasks.Waiting {
		return nil
	}
	worst := reasons[0]
	if worst == tasks.Throttled && len(v.quotaReached()) > 0 {
		return nil // which says it better
	}
	return []Cause{{
		Text: fmt.Sprintf("about %s for another attempt, most of them after %s", waits(n), worst),
		Hint: worst.Hint(),
	}}
}

func (v *Overview) batchesHeld() (all []Cause) {
	for _, b := range v.Batches.List {
		if b.Held != nil {
			c := Cause{Text: fmt.Sprintf("batch %s is held by %s", b.ID, b.Held.By), Hint: "kooworker batch release " + b.ID}
			if b.Held.Reason != "" {
				c.Text += ": " + b.Held.Reason
			}
			all = append(all, c)
		}
	}
	return all
}

// nearQuota is the share of a quota from which on the quota is what limits the work.
const nearQuota = 0.9

func (v *Overview) quotaReached() (all []Cause) {
	if v.Waiting() == 0 {
		return nil
	}
	for _, kind := range gate.Kinds() {
		q := v.Quota.Calls[kind]
		switch limit := gate.LowestLimit(q.Limit, v.Quota.Shared); {
		case limit > 0 && q.Used >= nearQuota*limit:
			all = append(all, Cause{
				Text: fmt.Sprintf("KooDrive's quota limits the work: %.3g calls a second of kind %s are made, and it allows %.3g; %s", q.Used, kind, limit, waits(v.Waiting())),
				Hint: "nothing is wrong; if it is too slow, have the quota raised",
			})
		case v.Quota.Ceiling > 0 && q.Used >= nearQuota*v.Quota.Ceiling:
			all = append(all, Cause{
				Text: fmt.Sprintf("--rate limits the work: %.3g of %.3g calls a second are made; %s", q.Used, v.Quota.Ceiling, waits(v.Waiting())),
				Hint: "raise --rate of all workers if KooDrive can take more",
			})
		case limit == 0 && q.Refused > 0 && !v.isStopped(kind):
			all = append(all, Cause{
				Text: fmt.Sprintf("KooDrive refuses %.3g of %.3g calls a second of kind %s because of a quota; the workers learn what it allows; %s", q.Refused, q.Used, kind, waits(v.Waiting())),
				Hint: "wait a minute; if it stays, kooworker status shows the quota that was learnt",
			})
		}
	}
	return all
}

func (v *Overview) isStopped(kind gate.Kind) bool {
	return slices.ContainsFunc(v.Gate.Stopped, func(s Stopped) bool { return s.Call == kind })
}

// waits says how many tasks wait.
func waits(n int64) string {
	return fmt.Sprintf("%d %s", n, humanize.Plural(n, "task waits", "tasks wait"))
}
