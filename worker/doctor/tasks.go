package doctor

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/recovery"
)

const fixHint = "kooworker doctor --fix; a worker that runs does the same by itself"

// faultCheck tells of some kinds of faults.
type faultCheck struct {
	name string
	scan bool   // only a scan of all keys finds them
	well string // if there are none
	of   map[recovery.Repair]faultText
}

// faultText makes a sentence: queue unbind has 2 <nouns> <which> (IDs): <so>.
type faultText struct{ nouns, which, so string }

// pendingTexts are for faults in the pending list. A worker that takes such an ID has it in its
// active list until the lease expires, and then the repairer acts. Nothing else removes it.
var pendingTexts = map[recovery.Repair]struct {
	faultText

	hint string
}{
	recovery.Lost: {
		faultText{"IDs", "without a task in its pending list", "the task itself is lost and never runs; a new order with the ID may be refused as a duplicate"},
		"when a worker takes such an ID in its turn, it removes it within a minute, and its log names it as lost; enqueue the task again if it is still wanted",
	},
	recovery.Quarantined: {
		faultText{"unreadable tasks", "in its pending list", "nobody can run such a task, and a new order with its ID is refused"},
		"when a worker takes such a task in its turn, it makes a dead letter of it within a minute (kooworker dead list --reason undecodable)",
	},
}

// pendingFault tells of a fault in the pending list.
func (d *Doctor) pendingFault(f recovery.Fault) Finding {
	text := pendingTexts[f.Repair]
	hint := text.hint
	if d.live == 0 {
		hint = "start a worker: kooworker worker; " + hint
	}
	return wrong(hint, "queue %s has %s %s%s: %s", f.Queue, humanize.Count(f.N, text.nouns), text.which, examples(f), text.so)
}

var faultChecks = []faultCheck{
	{"tasks.archived", false, "no task is archived", map[recovery.Repair]faultText{
		recovery.Collected: {"archived tasks", "", "nobody runs such a task, a new order with its ID is refused as a duplicate, and asynq deletes it some day"},
	}},
	{"tasks.orphans", true, "every task is in a set of its queue", map[recovery.Repair]faultText{
		recovery.Restored: {"orphans", "", "a task in no set of its queue; nobody runs it, and a new order with its ID is refused as a duplicate"},
	}},
	{"tasks.leaked", true, "no ID lacks its task, and every task is readable", map[recovery.Repair]faultText{
		recovery.Lost:        {"IDs", "without a task", "the task itself is lost; a new order with the ID may be refused as a duplicate"},
		recovery.Quarantined: {"unreadable tasks", "", "nobody can run such a task, and it is in no set of its queue"},
	}},
	{"tasks.active", false, "every task that runs has an owner that lives", map[recovery.Repair]faultText{
		recovery.Leased:   {"active tasks", "without a lease", "nobody would notice that its worker has died"},
		recovery.Requeued: {"active tasks", "whose worker is gone", "nobody works on such a task, and nobody has put it back for more than a minute"},
	}},
	{"queues.registered", false, "asynq's list of queues has all that have tasks", map[recovery.Repair]faultText{
		recovery.Registered: {"tasks", "and is not in asynq's list of queues", "asynqmon does not show it"},
	}},
}

func (d *Doctor) taskChecks() []check {
	checks := []check{{"tasks.scan", 0, d.examine}}
	for _, c := range faultChecks {
		checks = append(checks, check{c.name, redisLimit, func(context.Context) ([]Finding, error) { return d.report(c) }})
	}
	return append(checks, check{"tasks.locked", redisLimit, d.locked})
}

// examine reads all tasks, for the checks that follow.
func (d *Doctor) examine(ctx context.Context) ([]Finding, error) {
	d.faults, d.faultsErr = recovery.Examine(ctx, d.cfg.Redis, recovery.ExamineOptions{
		Scan: !d.cfg.Quick, OnScan: func(n int64) { d.scanned = n; d.cfg.OnScan(n) },
	})
	switch {
	case d.faultsErr != nil:
		return nil, d.faultsErr
	case d.cfg.Quick:
		return skipped("--quick leaves out what reads every task"), nil
	default:
		return ok("%d keys and waiting IDs of asynq were read", d.scanned), nil
	}
}

// report tells of the faults of some kinds that were found.
func (d *Doctor) report(c faultCheck) (out []Finding, err error) {
	for _, f := range d.faults {
		text, isOurs := c.of[f.Repair]
		switch {
		case !isOurs:
			continue
		case f.IsPending:
			out = append(out, d.pendingFault(f))
			continue
		}
		which := text.which
		if which != "" {
			which = " " + which
		}
		finding := wrong(fixHint, "queue %s has %s%s%s: %s", f.Queue, humanize.Count(f.N, text.nouns), which, examples(f), text.so)
		if f.Repair == recovery.Registered {
			finding.Status = Warning
		}
		finding.Fixable = true
		out = append(out, finding)
	}
	switch {
	case len(out) > 0:
		return out, nil
	case d.faultsErr != nil:
		return skipped("the tasks could not be read: see tasks.scan"), nil //nolint:nilerr // tasks.scan has told it
	case c.scan && d.cfg.Quick:
		return skipped("--quick leaves out what reads every task"), nil
	default:
		return ok("%s", c.well), nil
	}
}

// examples names some of the tasks.
func examples(f recovery.Fault) string {
	switch {
	case len(f.IDs) == 0:
		return ""
	case int64(len(f.IDs)) == f.N:
		return " (" + strings.Join(f.IDs, ", ") + ")"
	default:
		return " (" + strings.Join(f.IDs, ", ") + ", …)"
	}
}

// locked finds orders whose ID is taken by a task that is done: a new one for the same device or
// lock is refused as a duplicate. kooworker keeps none; a producer of somebody's own may.
func (d *Doctor) locked(ctx context.Context) (out []Finding, err error) {
	for _, f := range d.faults {
		if f.Repair == recovery.Stray {
			finding := wrong(fixHint, "queue %s has %s done%s whose ID is still taken: a new order for the same device, lock or user is refused as a duplicate",
				f.Queue, humanize.Count(f.N, "tasks"), examples(f))
			finding.Fixable = true
			out = append(out, finding)
		}
	}
	counts := make(map[string]*redis.IntCmd)
	_, err = d.cfg.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, queue := range []string{tasks.QueueUnbind, tasks.QueueRelease, tasks.QueueOffboard} {
			for _, lane := range tasks.LanesOf(queue) {
				counts[lane] = p.ZCard(ctx, asynqx.CompletedKey(lane))
			}
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	for _, queue := range []string{tasks.QueueUnbind, tasks.QueueRelease, tasks.QueueOffboard} {
		for _, lane := range tasks.LanesOf(queue) {
			if n := counts[lane].Val(); n > 0 {
				out = append(out, warning("let producers enqueue without asynq.Retention (docs/producers.md); what is kept goes by itself when its time is over, or in asynqmon by Delete",
					"queue %s keeps %s that %s done: until then new orders for the same devices, locks or users are refused as duplicates", lane, humanize.Count(n, "tasks"), are(n)))
			}
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return ok("no ID is taken by a task that is done"), nil
}
