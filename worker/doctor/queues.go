package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/overview"
)

func (d *Doctor) queueChecks() []check {
	return []check{
		{"queues.stuck", redisLimit, d.stuck}, {"queues.paused", redisLimit, d.paused}, {"queues.unknown", redisLimit, d.unknownQueues},
		{"dead.letters", redisLimit, d.deadLetters},
	}
}

// stuckAfter is for how long tasks may wait while nothing is worked on. A worker that lives
// takes a task within a second.
const stuckAfter = time.Minute

// unattendedAfter is for how long tasks may wait without a worker: one that is replaced, or
// scaled to nothing, is back before that.
const unattendedAfter = 5 * time.Minute

// stuck finds tasks that wait although nobody works on anything.
func (d *Doctor) stuck(ctx context.Context) ([]Finding, error) {
	lanes, err := overview.ReadQueues(ctx, d.cfg.Redis, true)
	if err != nil {
		return nil, err
	}
	var waiting, active int64
	oldest, where := time.Duration(0), ""
	for _, l := range lanes {
		active += l.Active
		if l.Paused || l.Pending == 0 {
			continue
		}
		waiting += l.Pending
		if age := time.Duration(l.OldestSeconds) * time.Second; age >= oldest {
			oldest, where = age, l.Name
		}
	}
	detail := fmt.Sprintf("%s %s in queues that are not paused, the oldest for %s, in queue %s", humanize.Count(waiting, "tasks"), wait(waiting), humanize.Age(oldest), where)
	switch {
	case waiting == 0:
		return ok("no task waits for a worker; %s %s being worked on", humanize.Count(active, "tasks"), are(active)), nil
	case d.live == 0 && oldest > unattendedAfter:
		return []Finding{wrong("start a worker: kooworker worker", "%s, and no worker is alive", detail)}, nil
	case d.live > 0 && active == 0 && oldest > stuckAfter:
		return []Finding{wrong("workers.alive says what they report; look at their logs, and at /readyz of one; a worker that hangs is restarted without loss",
			"%s; nobody works on anything, although %s %s alive", detail, humanize.Count(int64(d.live), "workers"), are(int64(d.live)))}, nil
	default:
		return ok("%s; %s %s being worked on", detail, humanize.Count(active, "tasks"), are(active)), nil
	}
}

// paused tells who has paused what, and why.
func (d *Doctor) paused(ctx context.Context) (out []Finding, err error) {
	queues, err := overview.ReadQueues(ctx, d.cfg.Redis, false)
	if err != nil {
		return nil, err
	}
	for _, q := range queues {
		for _, p := range q.Pauses {
			out = append(out, warning("when the reason is gone: kooworker queue resume "+q.Name, "%s; %s %s", p, humanize.Count(q.Pending, "tasks"), wait(q.Pending)))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return ok("no queue is paused"), nil
}

// unknownQueues finds queues with tasks that no worker of this version takes.
func (d *Doctor) unknownQueues(ctx context.Context) (out []Finding, err error) {
	names, err := d.cfg.Redis.SMembers(ctx, asynqx.AllQueuesKey).Result()
	if err != nil {
		return nil, err
	}
	known := tasks.QueueWeights()
	slices.Sort(names)
	for _, name := range names {
		if known[name] > 0 {
			continue
		}
		var counts [4]*redis.IntCmd
		_, err := d.cfg.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
			counts = [4]*redis.IntCmd{p.LLen(ctx, asynqx.PendingKey(name)), p.LLen(ctx, asynqx.ActiveKey(name)), p.ZCard(ctx, asynqx.ScheduledKey(name)), p.ZCard(ctx, asynqx.RetryKey(name))}
			return nil
		})
		if err != nil {
			return out, err
		}
		n := int64(0)
		for _, c := range counts {
			n += c.Val()
		}
		if n > 0 {
			out = append(out, warning("if a producer has misspelt the queue, repair it (docs/producers.md); if another program shares this Redis, all is well; if a newer version made the queue, upgrade the workers",
				"queue %q has %s, and no kooworker takes from it", name, humanize.Count(n, "tasks")))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return ok("all queues with tasks are kooworker's"), nil
}

// deadLetters counts them by reason, those that no worker has parked yet included.
func (d *Doctor) deadLetters(ctx context.Context) (out []Finding, err error) {
	letters := deadletter.NewStore(d.cfg.Redis)
	counts, err := letters.Counts(ctx)
	if err != nil {
		return nil, err
	}
	arriving, isAll, err := letters.Arriving(ctx)
	if err != nil {
		return nil, err
	}
	counts.Total += int64(arriving.Total)
	for r, n := range arriving.ByReason { // the index may have them already, or not yet
		counts.ByReason[r] = max(counts.ByReason[r], int64(n))
	}
	if arriving.Total > 0 && d.live == 0 {
		atLeast := ""
		if !isAll {
			atLeast = "at least "
		}
		out = append(out, warning("start a worker: kooworker worker; kooworker dead list shows them already",
			"%s%s %s for a worker to put %s away", atLeast, humanize.Count(arriving.Total, "dead letters"), wait(int64(arriving.Total)), humanize.Plural(arriving.Total, "it", "them")))
	}
	if counts.Total == 0 {
		return ok("there are no dead letters"), nil
	}
	for _, r := range overview.MostFrequent(counts.ByReason) {
		hint := fmt.Sprintf("kooworker dead list --reason %s --limit 20", r)
		if why := r.Hint(); why != "" {
			hint = why + "; then kooworker dead replay --reason " + string(r) + " --canary 50"
		}
		out = append(out, warning(hint, "about %s of %d died as %s", humanize.Count(counts.ByReason[r], "letters"), counts.Total, r))
	}
	if len(counts.ByReason) == 0 { // of kinds or reasons that this version does not know
		out = append(out, warning("kooworker dead stats", "%s", humanize.Count(counts.Total, "dead letters")))
	}
	return out, nil
}
