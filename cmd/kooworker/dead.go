package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

type deadCmd struct {
	List    deadListCmd    `cmd:"" help:"List dead letters, latest first."`
	Stats   deadStatsCmd   `cmd:"" help:"Count dead letters by reason and kind."`
	Replay  deadReplayCmd  `cmd:"" help:"Let workers carry dead letters out once more."`
	Discard deadDiscardCmd `cmd:"" help:"Delete dead letters for good."`
	Export  deadExportCmd  `cmd:"" help:"Write dead letters as JSON lines."`
}

type deadFilter struct {
	ID        []string      `group:"filter" placeholder:"ID" help:"Task ID; may be given several times."`
	Kind      []string      `group:"filter" placeholder:"KIND" help:"For example device:unbind."`
	Reason    []string      `group:"filter" placeholder:"REASON" help:"For example forbidden."`
	UserID    string        `name:"user-id" group:"filter" placeholder:"ID" help:"KooDrive user."`
	Batch     string        `group:"filter" placeholder:"ID" help:"Batch."`
	OlderThan time.Duration `name:"older-than" group:"filter" placeholder:"DURATION" help:"Dead for longer than this, for example 24h."`
	NewerThan time.Duration `name:"newer-than" group:"filter" placeholder:"DURATION" help:"Dead for less than this."`
	Limit     int           `group:"filter" placeholder:"N" help:"At most so many."`
}

func (f deadFilter) filter() (deadletter.Filter, error) {
	out := deadletter.Filter{IDs: f.ID, UserID: f.UserID, Batch: f.Batch, Limit: f.Limit}
	if f.Limit < 0 || f.OlderThan < 0 || f.NewerThan < 0 {
		return out, usagef("--limit, --older-than, --newer-than: want no negative value")
	}
	for _, kind := range f.Kind {
		out.Kinds = append(out.Kinds, tasks.Kind(kind))
	}
	for _, word := range f.Reason {
		if !tasks.Reason(word).Known() {
			return out, usagef("--reason: %q is none; want one of %v", word, tasks.Reasons())
		}
		out.Reasons = append(out.Reasons, tasks.Reason(word))
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

// store connects and hands over what every verb needs.
func (f deadFilter) store(a *app) (store *deadletter.Store, filter deadletter.Filter, done func(), err error) {
	a.flags.Log.quiet(a.stderr)
	if filter, err = f.filter(); err != nil {
		return nil, filter, nil, err
	}
	rdb, err := a.flags.Redis.client(4)
	if err != nil {
		return nil, filter, nil, err
	}
	return deadletter.NewStore(rdb), filter, func() { _ = rdb.Close() }, nil
}

// letterLine is the contract's line for one dead letter.
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

func lineOf(l deadletter.Letter) letterLine {
	return letterLine{
		ID: l.ID, Kind: l.Kind, UserID: l.UserID, Target: l.Target, Reason: l.Reason,
		Error: l.Error, Attempts: l.Attempts, DeadAt: l.DeadAt.UTC(), Batch: l.Batch,
	}
}

type deadListCmd struct {
	deadFilter
	JSON bool `help:"Print JSON lines."`
}

// Run implements the command.
func (c *deadListCmd) Run(a *app) error {
	if c.JSON {
		return export(a, c.deadFilter)
	}
	store, filter, done, err := c.store(a)
	if err != nil {
		return err
	}
	defer done()
	out := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	n := 0
	for l, err := range store.List(a.ctx, filter) {
		if err != nil {
			return redisError{err}
		}
		if n++; n == 1 {
			say(out, "DEAD SINCE\tATTEMPTS\tID\tERROR\n")
		}
		say(out, "%s\t%d\t%s\t%s\n", l.DeadAt.Local().Format(time.DateTime), l.Attempts, l.ID, l.Error)
	}
	if n == 0 {
		say(out, "No dead letters.\n")
	}
	return out.Flush()
}

type deadExportCmd struct {
	deadFilter
}

// Run implements the command.
func (c *deadExportCmd) Run(a *app) error { return export(a, c.deadFilter) }

func export(a *app, f deadFilter) error {
	store, filter, done, err := f.store(a)
	if err != nil {
		return err
	}
	defer done()
	out := bufio.NewWriter(a.stdout)
	for l, err := range store.List(a.ctx, filter) {
		if err != nil {
			_ = out.Flush()
			return redisError{err}
		}
		if err := writeJSON(out, lineOf(l)); err != nil {
			return err
		}
	}
	return out.Flush()
}

type deadStatsCmd struct {
	deadFilter
	JSON bool `help:"Print one JSON object."`
}

// Run implements the command.
func (c *deadStatsCmd) Run(a *app) error {
	store, filter, done, err := c.store(a)
	if err != nil {
		return err
	}
	defer done()
	stats, err := store.Stats(a.ctx, filter)
	if err != nil {
		return redisError{err}
	}
	if c.JSON {
		return writeJSON(a.stdout, stats)
	}
	out := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, reason := range slices.Sorted(maps.Keys(stats.ByReason)) {
		say(out, "reason\t%s\t%d\n", reason, stats.ByReason[reason])
	}
	for _, kind := range slices.Sorted(maps.Keys(stats.ByKind)) {
		say(out, "kind\t%s\t%d\n", kind, stats.ByKind[kind])
	}
	say(out, "total\t\t%d\n", stats.Total)
	return out.Flush()
}

// bulkFlags are common to the verbs that change something.
type bulkFlags struct {
	deadFilter
	All    bool    `help:"All dead letters, without a filter."`
	DryRun bool    `name:"dry-run" help:"Only say how many there are."`
	Rate   float64 `env:"KOOWORKER_DEAD_RATE" placeholder:"N" help:"At most so many a second; 0 is no limit."`
	JSON   bool    `help:"Print one JSON object."`
}

func (b bulkFlags) check() error {
	filter, err := b.filter()
	switch {
	case err != nil:
		return err
	case filter.Empty() && !b.All:
		return usagef("want a filter, such as --reason or --id, or --all")
	case b.Rate < 0:
		return usagef("--rate: %g is negative; want a number of letters a second, or 0", b.Rate)
	}
	return nil
}

func (b bulkFlags) options() deadletter.Options {
	return deadletter.Options{DryRun: b.DryRun, Rate: b.Rate}
}

func (b bulkFlags) report(a *app, verb string, res deadletter.Result, err error) error {
	switch {
	case b.JSON:
		if printErr := writeJSON(a.stdout, res); printErr != nil {
			return printErr
		}
	case b.DryRun:
		say(a.stdout, "%d dead letters would be %s\n", res.Matched, verb)
	default:
		say(a.stdout, "%d of %d dead letters %s\n", res.Done, res.Matched, verb)
		if res.Skipped > 0 {
			say(a.stdout, "%d were skipped: just dying, or taken by somebody else; try again\n", res.Skipped)
		}
	}
	if err != nil {
		return redisError{fmt.Errorf("interrupted: %w; what was not %s is dead as before", err, verb)}
	}
	return nil
}

type deadReplayCmd struct {
	bulkFlags
	Canary     int     `placeholder:"N" help:"Replay so many first, wait for their outcomes, and go on only if enough succeeded."`
	MinSuccess float64 `name:"min-success" default:"1" placeholder:"F" help:"Share of the canary that must succeed, 0 to 1 (${default})."`
}

// Run implements the command.
func (c *deadReplayCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Canary < 0 || c.MinSuccess < 0 || c.MinSuccess > 1 {
		return usagef("--canary, --min-success: want 0 or more letters, and a share from 0 to 1")
	}
	store, filter, done, err := c.store(a)
	if err != nil {
		return err
	}
	defer done()
	options := c.options()
	options.Canary = deadletter.Canary{Size: c.Canary, MinSuccess: c.MinSuccess}
	res, err := store.Replay(a.ctx, filter, options)
	if failed, ok := errors.AsType[*deadletter.CanaryError](err); ok {
		if err := c.report(a, "replayed", res, nil); err != nil {
			return err
		}
		say(a.stderr, "kooworker: %v\nhint: %s\n", failed, failed.Hint())
		return errPartial
	}
	return c.report(a, "replayed", res, err)
}

type deadDiscardCmd struct {
	bulkFlags
	Yes bool `help:"Do not ask."`
}

// Run implements the command.
func (c *deadDiscardCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	store, filter, done, err := c.store(a)
	if err != nil {
		return err
	}
	defer done()
	if !c.Yes && !c.DryRun {
		if !isTerminal(a.stdin) {
			return usagef("discard: what is discarded will never be carried out; want --yes, or --dry-run to see how many")
		}
		res, err := store.Discard(a.ctx, filter, deadletter.Options{DryRun: true})
		if err != nil {
			return redisError{err}
		}
		if !confirmed(a, res.Matched) {
			say(a.stdout, "Nothing was discarded.\n")
			return nil
		}
	}
	ledger, closeLedger, err := batchStore(a)
	if err != nil {
		return err
	}
	defer closeLedger()
	options := c.options()
	options.RecordOutcomes = func(ctx context.Context, receipts []tasks.Receipt) error {
		_, err := ledger.RecordOutcomes(ctx, receipts)
		return err
	}
	res, err := store.Discard(a.ctx, filter, options)
	if !c.DryRun {
		// The line that tells later who threw what away, and why it is gone.
		c.audit(a, res)
	}
	return c.report(a, "discarded", res, err)
}

// audit writes a line to the log, whatever its level.
func (c *deadDiscardCmd) audit(a *app, res deadletter.Result) {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	log := a.flags.Log
	log.LogLevel = "info"
	log.logger(a.stderr).Named("audit").Warn("dead letters discarded", zap.Int("discarded", res.Done), zap.Int("matched", res.Matched),
		zap.String("by", who), zap.String("host", host), zap.Any("filter", c.deadFilter), zap.Bool("all", c.All))
}

func confirmed(a *app, n int) bool {
	say(a.stdout, "Discard %d dead letters for good? They will never be carried out. [y/N] ", n)
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	word := strings.ToLower(strings.TrimSpace(line))
	return word == "y" || word == "yes"
}
