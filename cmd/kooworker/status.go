package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/forecast"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/overview"
)

type statusCmd struct {
	Watch bool          `help:"Show it again and again, until Ctrl-C."`
	Every time.Duration `env:"KOOWORKER_STATUS_EVERY" default:"2s" placeholder:"DURATION" help:"Time between two looks of --watch (${default})."`
	JSON  bool          `help:"Print one JSON object; with --watch one a line."`
}

// statusTimeout bounds one look, so that a Redis that hangs is called one.
const statusTimeout = 5 * time.Second

// Run implements the command.
func (c *statusCmd) Run(e *env, rdb redis.UniversalClient) error {
	if c.Every < time.Second {
		return usagef("--every: %s; want 1s or more", humanize.Duration(c.Every))
	}
	for {
		err := c.show(e, rdb)
		switch {
		case !c.Watch:
			return err
		case errors.Is(err, errInterrupted):
			return nil // Ctrl-C is how it ends, also while it looks
		case err != nil && !errors.Is(err, errShown):
			return err
		}
		select {
		case <-e.ctx.Done():
			return nil
		case <-time.After(c.Every):
		}
	}
}

// show looks once. errShown is for a Redis that does not answer.
func (c *statusCmd) show(e *env, rdb redis.UniversalClient) error {
	s := readStatus(e.ctx, rdb)
	if e.ctx.Err() != nil {
		return errInterrupted
	}
	var failed error
	if !s.Redis.Up {
		failed = errShown
	}
	if c.JSON {
		return errors.Join(writeJSON(e.stdout, s), failed)
	}
	var screen bytes.Buffer
	s.write(&screen, terminal.Width(e.stdout))
	if c.Watch && terminal.IsTerminal(e.stdout) {
		screen = *bytes.NewBufferString(terminal.Redraw(screen.String()))
	}
	if _, err := screen.WriteTo(e.stdout); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return failed
}

// status is what is printed.
type status struct {
	OK     bool             `json:"ok"`
	Cause  string           `json:"cause"` // of Causes, the first; empty: nothing stands in the way
	Hint   string           `json:"hint"`
	Causes []overview.Cause `json:"causes"`
	overview.Overview
}

// readStatus looks at everything.
func readStatus(ctx context.Context, rdb redis.UniversalClient) status {
	ctx, cancel := context.WithTimeoutCause(ctx, statusTimeout, errors.New("no answer within "+statusTimeout.String()))
	defer cancel()
	v, err := cancelable.Call(ctx, func() (overview.Overview, error) {
		return overview.Read(ctx, rdb, overview.ForScreen(locks.DefaultGrace))
	})
	return newStatus(v, err)
}

// newStatus makes a status of an overview, or of the error with which Redis did not answer.
func newStatus(v overview.Overview, err error) status {
	s := status{Causes: []overview.Cause{}, Overview: v}
	if err == nil {
		s.Causes = append(s.Causes, v.Causes()...)
	} else {
		s.Causes = append(s.Causes, overview.Unreachable(redisError(err)))
	}
	if len(s.Causes) > 0 {
		s.Cause, s.Hint = s.Causes[0].Text, s.Causes[0].Hint
	}
	s.OK = !slices.ContainsFunc(s.Causes, func(c overview.Cause) bool { return c.Wrong })
	return s
}

// write writes the screen: the causes first.
func (s status) write(out io.Writer, width int) {
	s.writeCauses(out, width)
	if !s.Redis.Up {
		return
	}
	fmt.Fprintln(out)
	s.writeFacts(out, width)
	for _, section := range []func(io.Writer, int){s.writeQueues, s.writeRetries, s.writeDead, s.writeBatches} {
		section(out, width)
	}
}

func (s status) writeCauses(out io.Writer, width int) {
	table := terminal.NewTableOf(out, width)
	word := "ok"
	if !s.OK {
		word = "NOT OK"
	}
	switch waiting := s.Waiting(); {
	case len(s.Causes) == 0 && waiting == 0:
		table.Row("status", "ok: nothing waits")
	case len(s.Causes) == 0:
		table.Row("status", fmt.Sprintf("ok: %s under way", humanize.Count(waiting, "tasks")))
	default:
		table.Row("status", word)
	}
	for i, c := range s.Causes {
		table.Row(map[bool]string{true: "cause", false: "also"}[i == 0], c.Text)
		table.Row("hint", c.Hint)
	}
	for _, text := range s.Unread {
		table.Row("not read", text)
	}
	_ = table.Close("") // the buffer takes everything
}

// writeFacts writes what is one line each.
func (s status) writeFacts(out io.Writer, width int) {
	table := terminal.NewTableOf(out, width)
	table.Row("workers", s.workersText())
	for _, kind := range gate.Kinds() {
		table.Row("calls "+string(kind), s.callsText(kind))
	}
	if s.Locks.Total > 0 {
		table.Row("locks", fmt.Sprintf("%d known, %d stale, %d being released", s.Locks.Total, s.Locks.Stale, s.Locks.Swept))
	}
	for _, sweep := range s.Locks.Sweeps {
		text := fmt.Sprintf("%s: %d stale, %d enqueued, %d held back", sweep.Began.Local().Format(time.DateTime), sweep.Stale, sweep.Enqueued, sweep.HeldBack)
		table.Row("sweep "+string(sweep.Source), text)
	}
	table.Row("redis", s.redisText())
	_ = table.Close("")
}

func (s status) workersText() string {
	text := fmt.Sprintf("%d alive", s.Workers.Live)
	versions := make(map[string]int)
	inFlight := 0
	for _, w := range s.Workers.List {
		versions[w.Version]++
		inFlight += w.InFlight
	}
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		if len(versions) == 1 {
			parts = append(parts, version)
		} else {
			parts = append(parts, fmt.Sprintf("%d of version %s", versions[version], version))
		}
	}
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if inFlight > 0 {
		text += fmt.Sprintf("; %s in flight", humanize.Count(inFlight, "calls"))
	}
	return text
}

// callsText says how many calls of a kind are made, and allowed.
func (s status) callsText(kind gate.Kind) string {
	q := s.Quota.Calls[kind]
	text := humanize.PerSecond(q.Used)
	switch {
	case q.Limit > 0:
		text += " of the " + humanize.PerSecond(q.Limit) + " that KooDrive allows"
	case s.Quota.Shared > 0:
		text += " of the " + humanize.PerSecond(s.Quota.Shared) + " that KooDrive allows for all kinds together"
	default:
		text += ", no quota known"
	}
	if q.Refused > 0 {
		text += fmt.Sprintf(", %s refused", humanize.PerSecond(q.Refused))
	}
	var reasons []string
	for _, stopped := range s.Gate.Stopped {
		if stopped.Call == kind {
			reasons = append(reasons, string(stopped.Reason))
		}
	}
	if len(reasons) > 0 {
		text += "; stopped: " + strings.Join(reasons, ", ")
	}
	parts := []string{text}
	for _, old := range s.Gate.Untested {
		if old.Call == kind {
			parts = append(parts, fmt.Sprintf("the next task of %s tries whether they pass (%s when the last one came)", humanize.Count(old.Workers, "workers"), old.Reason))
		}
	}
	return strings.Join(parts, "; ")
}

func (s status) redisText() string {
	text := fmt.Sprintf("answers in %.1f ms", 1000*s.Redis.Seconds)
	if s.Redis.Version == "" {
		return text // its user may not ask for more
	}
	text = fmt.Sprintf("%s, %s, %s used", s.Redis.Version, text, humanize.Bytes(s.Redis.UsedBytes))
	if s.Redis.MaxBytes > 0 {
		text += " of " + humanize.Bytes(s.Redis.MaxBytes)
	}
	return text
}

func (s status) writeQueues(out io.Writer, width int) {
	fmt.Fprintln(out)
	_ = writeQueueTable(terminal.NewTableOf(out, width, queueHeader...), s.Queues)
}

func (s status) writeRetries(out io.Writer, width int) {
	writeReasons(out, width, s.Retries, "RETRIES", "TASKS")
}

func (s status) writeDead(out io.Writer, width int) {
	writeReasons(out, width, s.Dead.ByReason, "DEAD", "LETTERS")
}

// writeReasons writes counts by reason, each with what to do about it.
func writeReasons(out io.Writer, width int, counts map[tasks.Reason]int64, header ...any) {
	if len(counts) == 0 {
		return
	}
	fmt.Fprintln(out)
	table := terminal.NewTableOf(out, width, append(header, terminal.Optional("HINT"))...)
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		name := string(reason)
		if name == "" {
			name = "unknown"
		}
		table.Row(name, counts[reason], reason.Hint())
	}
	_ = table.Close("")
}

func (s status) writeBatches(out io.Writer, width int) {
	if len(s.Batches.List) == 0 {
		return
	}
	fmt.Fprintln(out)
	table := terminal.NewTableOf(out, width, "BATCH", "TOTAL", "QUEUED", "RATE", "LEFT", terminal.Optional("STATE"))
	for _, b := range s.Batches.List {
		rate, left := "", ""
		if b.Rate > 0 {
			rate, left = humanize.PerSecond(b.Rate), humanize.Seconds(float64(b.LeftSeconds))
		}
		table.Row(terminal.ID(b.ID), b.Total, b.Queued, rate, left, batchState(b))
	}
	_ = table.Close("")
	if more := s.Batches.Open - len(s.Batches.List); more > 0 {
		fmt.Fprintf(out, "and %s\n", humanize.Count(more, "more batches"))
	}
}

// batchState says what is unusual about a batch.
func batchState(b overview.Batch) string {
	var parts []string
	if b.Late {
		parts = append(parts, "late: due by "+b.DueBy.Local().Format(time.DateTime))
	}
	if b.Held != nil {
		parts = append(parts, "held "+forecast.HeldText(*b.Held))
	}
	if b.Dead > 0 {
		parts = append(parts, fmt.Sprintf("%d dead", b.Dead))
	}
	return strings.Join(parts, "; ")
}
