package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/overview"
)

type queueCmd struct {
	List   queueListCmd   `cmd:"" help:"Show how many tasks each queue has, how long the oldest waits, and whether the queue is paused."`
	Pause  queuePauseCmd  `cmd:"" help:"Let the tasks of a queue wait, and its replays. Tasks that have begun finish."`
	Resume queueResumeCmd `cmd:"" help:"Let the tasks of a queue run again, whoever has paused it."`
}

// queueNames say which queues a command is about.
type queueNames struct {
	Names []string `arg:"" optional:"" name:"name" help:"Queues: release, unbind, offboard, sweep, webhook or dead-letter. All lanes of a queue count."`
	All   bool     `help:"All queues."`
}

// queues returns the queues that are named.
func (f queueNames) queues() ([]string, error) {
	all := tasks.Queues()
	if f.All == (len(f.Names) > 0) {
		return nil, usagef("want names of queues, or --all; the queues are %s", strings.Join(all, ", "))
	}
	for _, name := range f.Names {
		if !slices.Contains(all, name) {
			return nil, usagef("%q is not a queue; the queues are %s", name, strings.Join(all, ", "))
		}
	}
	return slices.DeleteFunc(all, func(queue string) bool { return !f.All && !slices.Contains(f.Names, queue) }), nil
}

type queuePauseCmd struct {
	queueNames
	Reason string        `env:"KOOWORKER_PAUSE_REASON" placeholder:"TEXT" help:"Why. The log of the workers and those who wait for a batch show it. At most ${max_reason} characters."`
	For    time.Duration `env:"KOOWORKER_PAUSE_FOR" placeholder:"DURATION" help:"End the pause after this time, such as 2h; at most 365d. Default: until somebody resumes the queue."`
	JSON   bool          `help:"Print JSON lines, as list does."`
}

// check refuses what cannot be kept.
func (c *queuePauseCmd) check() error {
	if n := utf8.RuneCountInString(c.Reason); n > pauses.MaxReason {
		return usagef("--reason: it has %d characters; want at most %d", n, pauses.MaxReason)
	}
	if c.For != 0 && (c.For < time.Second || c.For > pauses.MaxFor) {
		return usagef("--for: %s; want 1s to 365d", humanize.Duration(c.For))
	}
	return nil
}

// Run implements the command.
func (c *queuePauseCmd) Run(e *env, rdb redis.UniversalClient) error {
	names, err := c.queues()
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return err
	}
	order := pauses.Order{By: operator(), Reason: c.Reason, For: c.For}
	err = pauses.Set(e.ctx, rdb, names, order)
	e.audit(rdb, audit.Entry{Action: "queues paused", Subject: subject("queues", strings.Join(names, " "), "for", durationOrNone(c.For)), Reason: c.Reason}, err)
	if err != nil {
		return redisError(err)
	}
	return printQueues(e, rdb, names, c.JSON)
}

type queueResumeCmd struct {
	queueNames
	JSON bool `help:"Print JSON lines, as list does."`
}

// Run implements the command.
func (c *queueResumeCmd) Run(e *env, rdb redis.UniversalClient) error {
	names, err := c.queues()
	if err != nil {
		return err
	}
	err = pauses.Remove(e.ctx, rdb, names)
	e.audit(rdb, audit.Entry{Action: "queues resumed", Subject: subject("queues", strings.Join(names, " "))}, err)
	if err != nil {
		return redisError(err)
	}
	return printQueues(e, rdb, names, c.JSON)
}

// printQueues prints some queues after a change.
func printQueues(e *env, rdb redis.UniversalClient, names []string, asJSON bool) error {
	all, err := overview.ReadQueues(e.ctx, rdb, false)
	if err != nil {
		return redisError(err)
	}
	rows := slices.DeleteFunc(all, func(q overview.Queue) bool { return !slices.Contains(names, q.Name) })
	if asJSON {
		return writeRows(e.stdout, rows)
	}
	for _, row := range rows {
		if !row.Paused {
			fmt.Fprintf(e.stdout, "queue %s is not paused\n", row.Name)
		}
		for _, pause := range row.Pauses {
			fmt.Fprintln(e.stdout, pause)
		}
	}
	return nil
}

// warnPaused tells somebody who replays dead letters which queues are paused. If that cannot
// be read, nothing is said: the command is about the letters, and goes on.
func warnPaused(e *env, rdb redis.UniversalClient) {
	paused, err := pauses.Read(e.ctx, rdb)
	if err != nil {
		return
	}
	for _, pause := range paused.Groups() {
		fmt.Fprintf(e.stderr, "%s; what is replayed of it waits\n", pause)
	}
}

type queueListCmd struct {
	Lanes bool `help:"A row for each lane of a queue. In Redis and in asynqmon it is a queue of its own."`
	JSON  bool `help:"Print JSON lines."`
}

// Run implements the command.
func (c *queueListCmd) Run(e *env, rdb redis.UniversalClient) error {
	rows, err := overview.ReadQueues(e.ctx, rdb, c.Lanes)
	if err != nil {
		return redisError(err)
	}
	if c.JSON {
		return writeRows(e.stdout, rows)
	}
	if err := writeQueueTable(terminal.NewTable(e.stdout, queueHeader...), rows); err != nil {
		return err
	}
	if !slices.ContainsFunc(rows, func(q overview.Queue) bool { return q.Paused }) {
		return nil
	}
	paused, err := pauses.Read(e.ctx, rdb) // the pauses of rows for single lanes are in pieces
	if err != nil {
		return redisError(err)
	}
	return writePauses(e.stdout, paused.Groups())
}

// queueHeader is the header of the table of queues.
var queueHeader = []any{"QUEUE", "PENDING", "SCHEDULED", "RETRY", "ACTIVE", "OLDEST", "PAUSED"}

func writeQueueTable(table *terminal.Table, rows []overview.Queue) error {
	for _, row := range rows {
		table.Row(row.Name, row.Pending, row.Scheduled, row.Retry, row.Active, humanize.Seconds(float64(row.OldestSeconds)), pausedText(row))
	}
	return table.Close("")
}

// writePauses writes who has paused what, and why.
func writePauses(out io.Writer, groups []pauses.Group) error {
	if len(groups) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	table := terminal.NewTable(out, "PAUSED", "BY", "SINCE", "UNTIL", terminal.Optional("REASON"))
	for _, g := range groups {
		what := g.Queue
		if !g.IsWhole() {
			what = fmt.Sprintf("%d of %d lanes of %s", len(g.Lanes), len(tasks.LanesOf(g.Queue)), g.Queue)
		}
		until := "resumed"
		if !g.Until.IsZero() {
			until = g.Until.Local().Format(time.DateTime)
		}
		since := ""
		if !g.Since.IsZero() {
			since = g.Since.Local().Format(time.DateTime)
		}
		table.Row(what, g.Maker(), since, until, g.Reason)
	}
	return table.Close("")
}

// pausedText is the cell for people.
func pausedText(r overview.Queue) string {
	n := 0
	for _, pause := range r.Pauses {
		n += len(pause.Lanes)
	}
	if 0 < n && n < r.Lanes {
		return fmt.Sprintf("%d of %d lanes", n, r.Lanes)
	}
	return yesNo(r.Paused)
}

// writeRows writes JSON lines.
func writeRows(w io.Writer, rows []overview.Queue) error {
	for _, row := range rows {
		if err := writeJSON(w, row); err != nil {
			return err
		}
	}
	return nil
}
