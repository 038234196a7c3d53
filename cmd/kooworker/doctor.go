package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/batches"
	"github.com/kooworker/kooworker/worker/doctor"
	"github.com/kooworker/kooworker/worker/recovery"
)

type doctorCmd struct {
	KooDrive koodriveFlags `embed:"" group:"koodrive"`

	UserID string `name:"user-id" placeholder:"ID" help:"Try the credential with this user. Default: a user that does not exist, which is enough unless a token broker gives each user a token."`
	Quick  bool   `help:"Leave out what reads every task: orphans, and tasks that are missing from batches."`
	Fix    bool   `help:"Repair what is safe, as a worker does: tasks in no set, archived tasks, IDs without a task, leases, queues that asynq does not list. Then check again. The configuration of Redis is never changed."`
	JSON   bool   `help:"Print one JSON object."`
}

// doctorReport is what the command prints as JSON.
type doctorReport struct {
	OK     bool             `json:"ok"` // nothing is an error
	Checks []doctor.Finding `json:"checks"`
	// Fixed is what --fix has done.
	Fixed []doctor.Fixed `json:"fixed,omitempty"`
}

// Run implements the command.
func (c *doctorCmd) Run(e *env) error {
	rdb, err := e.redis(smallPool)
	if err != nil {
		return err
	}
	scan := doctorProgress{out: e.stderr}
	defer scan.finish()
	log := zap.NewNop()
	if c.Fix { // the IDs of what is repaired, and of what is lost, are written nowhere else
		log = e.flags.Log.logger(e.stderr).WithOptions(zap.IncreaseLevel(zap.WarnLevel))
	}
	d, err := doctor.New(doctor.Config{
		Redis: rdb, KooDrive: c.koodrive(), Quick: c.Quick, OnScan: scan.set, Logger: log,
		Missing: func(ctx context.Context, id string) ([]batch.Missing, error) { return batches.Missing(ctx, rdb, id) },
	})
	if err != nil {
		return err
	}
	report := doctorReport{Checks: d.Run(e.ctx)}
	if c.Fix && slices.ContainsFunc(report.Checks, func(f doctor.Finding) bool { return f.Fixable }) {
		scan.finish()
		fixed, err := d.Fix(e.ctx)
		for _, f := range fixed {
			e.audit(rdb, audit.Entry{Action: "repaired by doctor --fix", Subject: subject("queue", f.Queue, "repair", f.Repair), Count: f.Tasks}, nil)
		}
		if !c.JSON {
			writeFixed(e.stdout, fixed)
		}
		report.Checks = d.Run(e.ctx)
		report.Fixed = fixed
		if err != nil {
			report.Checks = append(report.Checks, fixProblem(err))
		}
	}
	scan.finish()
	if e.ctx.Err() != nil {
		return errInterrupted
	}
	report.OK = !slices.ContainsFunc(report.Checks, func(f doctor.Finding) bool { return f.Status == doctor.Error })
	if c.JSON {
		err = writeJSON(e.stdout, report)
	} else {
		err = writeFindings(e.stdout, report.Checks, c.Fix)
	}
	if err == nil && !report.OK {
		return errShown
	}
	return err
}

// koodrive returns how KooDrive is called, nil if nobody has said where it is. Wrong settings are a
// finding: they must not hide what is wrong with Redis.
func (c *doctorCmd) koodrive() *doctor.KooDrive {
	f := c.KooDrive
	if f.URL == "" {
		return nil
	}
	k := doctor.KooDrive{Auth: f.Auth, Format: f.TokenFormat, UserID: c.UserID}
	variables := []string{"KOODRIVE_TOKEN", "KOODRIVE_TOKEN_FILE", "KOODRIVE_TOKEN_URL"}
	if f.Auth == "app" {
		k.Format = "SDK-HMAC-SHA256 AppId=…,SignedHeaders=…,Signature=…"
		variables = []string{"KOODRIVE_APP_SECRET", "KOODRIVE_APP_SECRET_FILE"}
	}
	for _, name := range variables {
		value := os.Getenv(name)
		switch {
		case value == "":
		case strings.HasSuffix(name, "_FILE"):
			k.File, k.Source = value, fmt.Sprintf("the file %s (%s)", value, name)
		default:
			k.Source = name
		}
	}
	k.Client, k.Problem = f.config()
	return &k
}

// fixProblem is the finding that --fix has not done all.
func fixProblem(err error) doctor.Finding {
	f := doctor.Finding{Name: "fix", Status: doctor.Error, Detail: "not everything was repaired: " + err.Error(), Hint: "repair what the other findings name, and run kooworker doctor --fix again"}
	if errors.Is(err, recovery.ErrLocked) {
		f.Status, f.Hint = doctor.Warning, "run kooworker doctor in a minute; if it finds the same, the worker's log says why"
	}
	return f
}

// writeFixed says what was repaired.
func writeFixed(out io.Writer, fixed []doctor.Fixed) {
	for _, f := range fixed {
		fmt.Fprintf(out, "%-8s %s\n", "fixed", f.Text)
	}
	if len(fixed) > 0 {
		fmt.Fprintln(out)
	}
}

// doctorMarks say in words what a status means, the gravest first.
var doctorMarks = []struct {
	status doctor.Status
	mark   string
	nouns  string
}{{doctor.Error, "ERROR", "errors"}, {doctor.Warning, "warning", "warnings"}, {doctor.Skipped, "skipped", ""}, {doctor.OK, "ok", ""}}

// writeFindings writes what is wrong first, and within that keeps the order of the checks.
func writeFindings(w io.Writer, findings []doctor.Finding, isFixed bool) error {
	out, width := bufio.NewWriter(w), terminal.Width(w)
	var counts []string
	fixable := false
	for _, m := range doctorMarks {
		n := 0
		for _, f := range findings {
			if f.Status != m.status {
				continue
			}
			n++
			fixable = fixable || f.Fixable
			writeFinding(out, width, m.mark, f)
		}
		if n > 0 && m.status == doctor.Error || m.status == doctor.Warning {
			counts = append(counts, humanize.Count(n, m.nouns))
		} else if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, m.mark))
		}
	}
	fmt.Fprintf(out, "\n%s\n", strings.Join(counts, ", "))
	if fixable && !isFixed {
		fmt.Fprintln(out, "kooworker doctor --fix repairs some of this")
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// writeFinding writes a finding, and below it the hint.
func writeFinding(out io.Writer, width int, mark string, f doctor.Finding) {
	const indent = 9
	for i, line := range terminal.Wrap(f.Name+": "+f.Detail, width-indent) {
		if i > 0 {
			mark = ""
		}
		fmt.Fprintf(out, "%-8s %s\n", mark, line)
	}
	if f.Hint == "" {
		return
	}
	for i, line := range terminal.Wrap("hint: "+f.Hint, width-indent-2) {
		if i > 0 {
			line = "  " + line
		}
		fmt.Fprintf(out, "%*s%s\n", indent, "", line)
	}
}

// doctorProgress shows on a terminal how many keys were read, once that takes long.
type doctorProgress struct {
	out      io.Writer
	progress *terminal.Progress
}

// manyKeys is what is read in about a second.
const manyKeys = 50_000

func (p *doctorProgress) set(read int64) {
	if !terminal.IsTerminal(p.out) || read < manyKeys {
		return
	}
	if p.progress == nil {
		p.progress = terminal.StartProgress(p.out, terminal.ProgressOptions{Unit: "keys"})
	}
	p.progress.Set(read)
}

func (p *doctorProgress) finish() {
	if p.progress != nil {
		p.progress.Finish()
		p.progress = nil
	}
}
