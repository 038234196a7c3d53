package main

import (
	"bufio"
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
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/deadletter"
)

type deadCmd struct {
	List    deadListCmd    `cmd:"" help:"List dead letters, latest first."`
	Stats   deadStatsCmd   `cmd:"" help:"Count dead letters by reason and kind."`
	Replay  deadReplayCmd  `cmd:"" help:"Let workers carry out dead letters again."`
	Discard deadDiscardCmd `cmd:"" help:"Delete dead letters for good."`
	Export  deadExportCmd  `cmd:"" help:"Write dead letters as JSON lines."`
}

type deadFilter struct {
	ID        []string       `group:"filter" placeholder:"ID" help:"Task ID; may be given several times."`
	Kind      []tasks.Kind   `group:"filter" placeholder:"KIND" help:"For example device:unbind; unknown stands for all kinds that this version does not know."`
	Reason    []tasks.Reason `group:"filter" placeholder:"REASON" help:"For example forbidden."`
	UserID    string         `name:"user-id" group:"filter" placeholder:"ID" help:"KooDrive user."`
	Batch     string         `group:"filter" placeholder:"ID" help:"Batch."`
	OlderThan time.Duration  `name:"older-than" group:"filter" placeholder:"DURATION" help:"Dead for longer than this, for example 24h or 7d."`
	NewerThan time.Duration  `name:"newer-than" group:"filter" placeholder:"DURATION" help:"Dead for less than this."`
	Limit     int            `group:"filter" placeholder:"N" help:"At most so many."`
}

func (f deadFilter) filter() (deadletter.Filter, error) {
	out := deadletter.Filter{IDs: f.ID, Kinds: f.Kind, Reasons: f.Reason, UserID: f.UserID, Batch: f.Batch, Limit: f.Limit}
	if f.Limit < 0 || f.OlderThan < 0 || f.NewerThan < 0 {
		return out, usagef("--limit, --older-than, --newer-than: want no negative value")
	}
	for _, reason := range f.Reason {
		if !reason.Known() {
			return out, usagef("--reason: %q is not a reason; want one of %v", reason, tasks.Reasons())
		}
	}
	for _, kind := range f.Kind {
		if kind != deadletter.KindUnknown && !slices.Contains(tasks.Kinds(), kind) {
			return out, usagef("--kind: %q is not a kind; want one of %v, or %s, which stands for all others", kind, tasks.Kinds(), deadletter.KindUnknown)
		}
	}
	now := time.Now()
	if f.OlderThan > 0 {
		out.DeadBefore = now.Add(-f.OlderThan)
	}
	if f.NewerThan > 0 {
		out.DeadAfter = now.Add(-f.NewerThan)
	}
	return out, nil
}

// subject says for the audit log which dead letters were meant.
func (f deadFilter) subject() string {
	text := subject("id", strings.Join(f.ID, " "), "kind", words(f.Kind), "reason", words(f.Reason), "user", f.UserID, "batch", f.Batch,
		"older than", durationOrNone(f.OlderThan), "newer than", durationOrNone(f.NewerThan))
	if text == "" {
		text = "all dead letters"
	}
	if f.Limit > 0 {
		text += fmt.Sprintf(", at most %d", f.Limit)
	}
	return text
}

func words[T ~string](list []T) string {
	var out []string
	for _, word := range list {
		out = append(out, string(word))
	}
	return strings.Join(out, " ")
}

func durationOrNone(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return humanize.Duration(d)
}

type deadListCmd struct {
	deadFilter
	JSON bool `help:"Print JSON lines."`
}

// Run implements the command.
func (c *deadListCmd) Run(e *env, store *deadletter.Store) error {
	if c.JSON {
		return c.export(e, store)
	}
	filter, err := c.filter()
	if err != nil {
		return err
	}
	table := terminal.NewTable(e.stdout, "DEAD SINCE", "ATTEMPTS", terminal.Optional("USER"), terminal.Optional("DEVICE"), terminal.Optional("LOCK"), "ID", "ERROR")
	for l, err := range store.List(e.ctx, filter) {
		if err != nil {
			return redisError(err)
		}
		device, lock := "", ""
		switch l.Kind {
		case tasks.KindDeviceUnbind:
			device = l.Target
		case tasks.KindLockRelease:
			lock = l.Target
		default: // the ID or the error names what else there is
		}
		table.Row(minutes(l.DeadAt), l.Attempts, terminal.ID(l.UserID), terminal.ID(device), terminal.ID(lock), terminal.ID(l.ID), l.Error)
	}
	return table.Close("No dead letters.\n")
}

type deadExportCmd struct{ deadFilter }

// Run implements the command.
func (c *deadExportCmd) Run(e *env, store *deadletter.Store) error { return c.export(e, store) }

// letterLine is the JSON line of a dead letter.
type letterLine struct {
	ID       string       `json:"id"`
	Kind     tasks.Kind   `json:"kind"`
	UserID   string       `json:"user_id"`
	Target   string       `json:"target"`
	Reason   tasks.Reason `json:"reason"`
	Error    string       `json:"error"`
	Attempts int          `json:"attempts"`
	DeadAt   time.Time    `json:"dead_at"`
	Batch    string       `json:"batch"`
}

// export writes the dead letters as JSON lines.
func (f deadFilter) export(e *env, store *deadletter.Store) error {
	filter, err := f.filter()
	if err != nil {
		return err
	}
	return writeJSONLines(e.stdout, false, store.List(e.ctx, filter), func(l deadletter.Letter) any {
		return letterLine{
			ID: l.ID, Kind: l.Kind, UserID: l.UserID, Target: l.Target, Reason: l.Reason,
			Error: l.Error, Attempts: l.Attempts, DeadAt: l.DeadAt.UTC(), Batch: l.Batch,
		}
	}, redisError)
}

type deadStatsCmd struct {
	deadFilter
	JSON bool `help:"Print one JSON object."`
}

// Run implements the command.
func (c *deadStatsCmd) Run(e *env, store *deadletter.Store) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	stats, err := store.Stats(e.ctx, filter)
	if err != nil {
		return redisError(err)
	}
	if c.JSON {
		return writeJSON(e.stdout, stats)
	}
	return writeDeadStats(e.stdout, stats)
}

// writeDeadStats writes the counts of dead letters for people, and what to do about them.
func writeDeadStats(out io.Writer, stats deadletter.Stats) error {
	if stats.Total == 0 {
		_, err := fmt.Fprintln(out, "No dead letters.")
		return err
	}
	reasons := terminal.NewTable(out, "REASON", "DEAD", terminal.Optional("HINT"))
	for _, reason := range slices.Sorted(maps.Keys(stats.ByReason)) {
		reasons.Row(reason, stats.ByReason[reason], reason.Hint())
	}
	kinds := terminal.NewTable(out, "KIND", "DEAD", terminal.Optional("HINT"))
	for _, kind := range slices.Sorted(maps.Keys(stats.ByKind)) {
		hint := ""
		if kind == tasks.KindBatchWebhook {
			hint = "the hints above are about KooDrive; a webhook's error says what its receiver answers"
		}
		kinds.Row(kind, stats.ByKind[kind], hint)
	}
	if err := reasons.Close(""); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if err := kinds.Close(""); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nTotal: %d\n", stats.Total)
	return err
}

// bulkFlags are common to the commands that change dead letters.
type bulkFlags struct {
	deadFilter
	All    bool    `help:"All dead letters, without a filter."`
	DryRun bool    `name:"dry-run" help:"Only print how many there are."`
	Rate   float64 `env:"KOOWORKER_DEAD_RATE" placeholder:"N" help:"At most so many a second; 0 is no limit."`
	JSON   bool    `help:"Print one JSON object."`
}

// check checks the flags and returns the filter.
func (f bulkFlags) check() (deadletter.Filter, error) {
	filter, err := f.filter()
	switch {
	case err != nil:
		return filter, err
	case filter.Empty() && !f.All:
		return filter, usagef("want a filter, such as --reason or --id, or --all")
	case f.Rate < 0:
		return filter, usagef("--rate: %g is negative; want a number of letters a second, or 0", f.Rate)
	}
	return filter, nil
}

// printResult prints what was done. verb is "replayed" or "discarded".
func (f bulkFlags) printResult(e *env, verb string, res deadletter.Result, err error) error {
	switch {
	case f.JSON:
		if printErr := writeJSON(e.stdout, res); printErr != nil {
			return printErr
		}
	case f.DryRun:
		fmt.Fprintf(e.stdout, "%s would be %s\n", humanize.Count(res.Matched, "dead letters"), verb)
	default:
		fmt.Fprintf(e.stdout, "%d of %s %s\n", res.Done, humanize.Count(res.Matched, "dead letters"), verb)
		if res.Skipped > 0 {
			fmt.Fprintf(e.stdout, "%s skipped: just becoming dead letters, or taken by somebody else; try again\n", humanize.Count(res.Skipped, "tasks"))
		}
	}
	if err != nil && e.ctx.Err() != nil {
		return fmt.Errorf("interrupted; what was not %s is dead as before", verb)
	}
	if err != nil {
		return redisError(fmt.Errorf("interrupted: %w; what was not %s is dead as before", err, verb))
	}
	return nil
}

type deadReplayCmd struct {
	bulkFlags
	Canary     int     `placeholder:"N" help:"Replay so many first, wait for their outcomes, and continue only if enough of them succeed."`
	MinSuccess float64 `name:"min-success" default:"1" placeholder:"F" help:"Share of the canary that must succeed, 0 to 1 (${default})."`
}

// Run implements the command.
func (c *deadReplayCmd) Run(e *env, store *deadletter.Store, rdb redis.UniversalClient) error {
	filter, err := c.check()
	if err != nil {
		return err
	}
	if c.Canary < 0 || c.MinSuccess < 0 || c.MinSuccess > 1 {
		return usagef("--canary, --min-success: want 0 or more letters, and a share from 0 to 1")
	}
	warnPaused(e, rdb)
	res, err := store.Replay(e.ctx, filter, deadletter.Options{
		DryRun: c.DryRun, Rate: c.Rate, Canary: deadletter.Canary{Size: c.Canary, MinSuccess: c.MinSuccess},
	})
	if !c.DryRun {
		e.audit(rdb, audit.Entry{Action: "dead letters replayed", Subject: c.subject(), Count: int64(res.Done)}, err)
	}
	if failed, ok := errors.AsType[*deadletter.CanaryError](err); ok {
		if err := c.printResult(e, "replayed", res, nil); err != nil {
			return err
		}
		return commandError{failed, exitPartial, ""}
	}
	return c.printResult(e, "replayed", res, err)
}

type deadDiscardCmd struct {
	bulkFlags
	Yes bool `help:"Do not ask for confirmation."`
}

// Run implements the command.
func (c *deadDiscardCmd) Run(e *env, rdb redis.UniversalClient, store *deadletter.Store, batches *batch.Store, singles *history.Store) error {
	filter, err := c.check()
	if err != nil {
		return err
	}
	if !c.Yes && !c.DryRun {
		if !terminal.IsTerminal(e.stdin) {
			return usagef("discard: discarded tasks are never carried out; want --yes, or --dry-run to see how many they are")
		}
		res, err := store.Discard(e.ctx, filter, deadletter.Options{DryRun: true})
		if err != nil {
			return redisError(err)
		}
		isYes := confirm(e, res.Matched)
		if e.ctx.Err() != nil {
			return errors.New("interrupted: nothing was discarded")
		}
		if !isYes {
			fmt.Fprintln(e.stdout, "Nothing was discarded.")
			return nil
		}
	}
	res, err := store.Discard(e.ctx, filter, deadletter.Options{
		DryRun: c.DryRun, Rate: c.Rate,
		RecordOutcomes: func(ctx context.Context, receipts []tasks.Receipt) error {
			return bulk.RecordOutcomes(ctx, batches, singles, receipts)
		},
	})
	if !c.DryRun {
		e.audit(rdb, audit.Entry{Action: "dead letters discarded", Subject: c.subject(), Count: int64(res.Done)}, err)
	}
	return c.printResult(e, "discarded", res, err)
}

// confirm asks on the terminal.
func confirm(e *env, n int) bool {
	fmt.Fprintf(e.stdout, "Discard %s for good? Discarded tasks are never carried out. [y/N] ", humanize.Count(n, "dead letters"))
	line, _ := bufio.NewReader(cancelableReader{e.ctx, e.stdin}).ReadString('\n')
	word := strings.ToLower(strings.TrimSpace(line))
	return word == "y" || word == "yes"
}
