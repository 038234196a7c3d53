package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"
)

// The exit codes, as the README lists them.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitPartial = 3 // done, but something was rejected or is dead
	exitTimeout = 4 // timed out waiting
)

// cli is the whole command line. Flags that all commands share come first.
type cli struct {
	Redis redisFlags `embed:"" group:"redis"`
	Log   logFlags   `embed:"" group:"log"`

	Demo      demoCmd      `cmd:"" help:"See it work: Redis, KooDrive and a worker, all in this process. Needs nothing."`
	Worker    workerCmd    `cmd:"" help:"Carry tasks out until SIGTERM or SIGINT."`
	Enqueue   enqueueCmd   `cmd:"" help:"Put tasks into the queue."`
	Batch     batchCmd     `cmd:"" help:"Look at batches: progress, balance and receipts."`
	Locks     locksCmd     `cmd:"" help:"Keep the ledger of backup locks, and sweep those whose holder went away."`
	Scheduler schedulerCmd `cmd:"" help:"Sweep stale locks on a schedule; every replica may run it."`
	Dead      deadCmd      `cmd:"" help:"Look at what failed for good; replay, discard or export it."`
	Simulator simulatorCmd `cmd:"" help:"Serve the KooDrive backup API from memory, with faults."`
	Version   versionCmd   `cmd:"" help:"Print version, commit and Go version."`
}

const description = `Unbinds devices and releases backup locks at Huawei Cloud KooDrive, reliably and in bulk.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, but something was rejected or is dead; 4 timed out waiting.`

// app is what a command has at hand.
type app struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the command
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	flags  *cli
}

// usageError is a wrong flag or configuration: exit code 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errPartial makes the exit code 3. What there is to say has been said.
var errPartial = errors.New("done, but something was rejected or is dead")

// run is main without the process: testable, and the only place that turns
// errors into exit codes.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var flags cli
	exited := false
	parser, err := kong.New(&flags,
		kong.Name("kooworker"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.DefaultEnvars("KOOWORKER"),
		kong.Exit(func(int) { exited = true }), // after --help
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "redis", Title: "Redis:"},
			{Key: "log", Title: "Logging (to stderr):"},
			{Key: "koodrive", Title: "KooDrive:", Description: credentialsHelp},
			{Key: "retry", Title: "Retries:"},
			{Key: "sweep", Title: "Sweeps of stale locks:"},
			{Key: "source", Title: "Sources of locks:", Description: sourceHelp},
			{Key: "webhook", Title: "Complete batches:", Description: webhookHelp},
			{Key: "filter", Title: "Which dead letters:"},
		}),
		vars(),
	)
	if err != nil {
		return report(stderr, fmt.Errorf("command line: %w", err))
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if exited {
		return exitDone
	}
	if err != nil {
		return report(stderr, usagef("%w; see %s --help", err, commandOf(err)))
	}
	defer flags.Log.release()
	return report(stderr, interruptibly(ctx, patienceOf(kctx.Command()), func() error {
		return kctx.Run(&app{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, flags: &flags})
	}))
}

// patienceOf is how long a command may go on when it is interrupted; 0 is as long
// as it likes.
func patienceOf(command string) time.Duration {
	name, _, _ := strings.Cut(command, " ")
	switch name {
	case "worker", "scheduler", "simulator", "demo": // they stop in order, and in time
		return 0
	case "enqueue", "locks": // bring to its end what is under way, and say how to go on
		return 2500 * time.Millisecond
	default:
		return time.Second
	}
}

// interruptibly leaves a command behind that does not end when it is interrupted:
// one that waits for a Redis that hangs, which go-redis does until its own
// time-out.
func interruptibly(ctx context.Context, patience time.Duration, command func() error) error {
	if patience == 0 {
		return command()
	}
	done := make(chan error, 1)
	go func() { done <- command() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		return errors.New("interrupted while Redis did not answer")
	}
}

// commandOf names the command whose help explains a parse error.
func commandOf(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		words := []string{"kooworker"}
		for _, p := range parse.Context.Path {
			if p.Command != nil {
				words = append(words, p.Command.Name)
			}
		}
		return strings.Join(words, " ")
	}
	return "kooworker"
}

// report prints an error in one line, its hint in another, and returns the exit
// code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	if errors.Is(err, errPartial) {
		return exitPartial
	}
	say(stderr, "kooworker: %s\n", strings.ReplaceAll(withoutCodes(err.Error()), "\n", " "))
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		say(stderr, "hint: %s\n", hinted.Hint())
	}
	if _, wrong := errors.AsType[usageError](err); wrong {
		return exitUsage
	}
	if _, late := errors.AsType[timedOutError](err); late {
		return exitTimeout
	}
	return exitFailed
}

// asynqCode is how asynq begins errors of Redis, before the cause. Their type is
// internal to it, so the text is all there is to go by.
var asynqCode = regexp.MustCompile(`(^|: |\()(?:(?:UNKNOWN|INTERNAL_ERROR): )+`)

func withoutCodes(text string) string { return asynqCode.ReplaceAllString(text, "$1") }

// say writes for people. When nobody can read any more there is nobody to tell.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// writeJSON writes one value as one line. A script must know when its input is
// incomplete, so the error counts.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
