package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/enqueue/waiting"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/forecast"
)

// cli is the whole command line. The flags that all commands share come first.
type cli struct {
	Redis redisFlags `embed:"" group:"redis"`
	Log   logFlags   `embed:"" group:"log"`

	Demo        demoCmd         `cmd:"" help:"See it work: run Redis, a simulated KooDrive and a worker in this process. Needs no setup."`
	Worker      workerCmd       `cmd:"" help:"Carry out tasks until SIGTERM or SIGINT."`
	Status      statusCmd       `cmd:"" help:"Show what works, what waits, and what stands in the way."`
	Doctor      doctorCmd       `cmd:"" help:"Find what is wrong with Redis, KooDrive, the workers and the queues, and say what to do. Exit code 1 if something is."`
	Enqueue     enqueueCmd      `cmd:"" help:"Put tasks into the queue."`
	Batch       batchCmd        `cmd:"" help:"Show the progress, the counts and the receipts of batches."`
	Cancel      cancelCmd       `cmd:"" help:"Cancel single orders that wait. Those of a batch: batch cancel."`
	History     historyCmd      `cmd:"" help:"Show what happened to one user, over batches, single orders, sweeps and dead letters; or forget it."`
	Locks       locksCmd        `cmd:"" help:"Keep the ledger of backup locks, and release stale locks."`
	Scheduler   schedulerCmd    `cmd:"" help:"Sweep stale locks on a schedule. Every replica may run it."`
	Dashboard   dashboardCmd    `cmd:"" help:"Show asynqmon and the operators' own pages in a browser, behind a login."`
	HashPwd     hashPasswordCmd `name:"hash-password" cmd:"" help:"Print the line of a user for dashboard --users-file. The password comes from the terminal, or from the first line of stdin."`
	Healthcheck healthcheckCmd  `cmd:"" help:"Ask a worker or scheduler whether it is ready; for images without a shell."`
	Dead        deadCmd         `cmd:"" help:"Show tasks that failed for good; replay, discard or export them."`
	Queue       queueCmd        `cmd:"" help:"Show the queues; pause and resume them."`
	Simulator   simulatorCmd    `cmd:"" help:"Serve the KooDrive backup API from memory, with quotas and faults."`
	Version     versionCmd      `cmd:"" help:"Print version, commit and Go version."`

	Help       helpCmd       `cmd:"" help:"Show the help of a command."`
	Completion completionCmd `cmd:"" help:"Print the script with which a shell completes command lines."`
	Man        manCmd        `cmd:"" hidden:"" help:"Print the manual page, kooworker.1."`

	ShowVersion kong.VersionFlag `name:"version" env:"-" help:"Print version, commit and Go version, and exit."`
}

const description = `Unbinds devices and releases backup locks at Huawei Cloud KooDrive, reliably and in bulk.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, but something was rejected or is dead; 4 timed out waiting.`

// newParser returns the parser of the command line. It calls exit after --help and
// --version.
func newParser(flags *cli, stdout, stderr io.Writer, exit func(int)) (*kong.Kong, error) {
	return kong.New(flags,
		kong.Name("kooworker"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.DefaultEnvars("KOOWORKER"),
		kong.Exit(exit),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Help(printHelp),
		kong.PostBuild(addExamples),
		kong.Vars{"version": build().String()},
		kong.ExplicitGroups([]kong.Group{
			{Key: "tasks", Title: "Tasks:"},
			{Key: "redis", Title: "Redis:"},
			{Key: "log", Title: "Logging (to stderr):"},
			{Key: "koodrive", Title: "KooDrive:", Description: credentialsHelp},
			{Key: "retry", Title: "Retries:"},
			{Key: "sweep", Title: "Sweeps of stale locks:"},
			{Key: "source", Title: "Sources of locks:", Description: sourceHelp},
			{Key: "webhook", Title: "Complete batches:", Description: webhookHelp},
			{Key: "filter", Title: "Which dead letters:"},
			{Key: "orders", Title: "Which orders:"},
			{Key: "access", Title: "Who has access:"},
		}),
		kong.PostBuild(fillDefaults),
		durations(),
		instants(),
		kong.BindToProvider(storeOf(func(rdb redis.UniversalClient) redis.UniversalClient { return rdb })),
		kong.BindToProvider(storeOf(batch.NewStore)),
		kong.BindToProvider(storeOf(waiting.NewStore)),
		kong.BindToProvider(storeOf(forecast.New)),
		kong.BindToProvider(storeOf(history.NewStore)),
		kong.BindToProvider(storeOf(locks.NewStore)),
		kong.BindToProvider(storeOf(deadletter.NewStore)),
	)
}

// run is main without the process, so that tests can call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var flags cli
	environment := tidyEnvironment()
	exited := false // after --help and --version
	parser, err := newParser(&flags, stdout, stderr, func(int) { exited = true })
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
	report := func(err error) int { return report(stderr, err) }
	if isService(kctx, err) {
		signal.Ignore(syscall.SIGPIPE) // what reads its output may go, and it works on
		log := &flags.Log
		if err != nil {
			log = logFlagsOf(args)
		}
		report = func(err error) int { return log.report(stderr, err) }
	}
	if environment != nil {
		return report(environment)
	}
	if err != nil {
		return report(usagef("%w; see %s --help", err, commandOf(err)))
	}
	warnUnknown(kctx, parser.Model, &flags.Log, stderr)
	flags.Log.quiet(stderr)
	defer flags.Log.release()
	return report(runInterruptible(ctx, gracePeriod(kctx.Command()), func() error {
		e := &env{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, flags: &flags}
		defer e.close()
		return kctx.Run(e)
	}))
}

// commandOf names the command whose help explains a parse error.
func commandOf(err error) string {
	if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context != nil {
		if command := parse.Context.Selected(); command != nil {
			return command.FullPath()
		}
	}
	return "kooworker"
}

// isService reports whether a command runs until it is told to stop, under a supervisor that
// collects its log. err is the error of parsing its command line.
func isService(kctx *kong.Context, err error) bool {
	command := strings.TrimPrefix(commandOf(err), "kooworker ")
	if err == nil {
		command = kctx.Command()
	}
	return command == "worker" || command == "scheduler" || command == "simulator" || command == "dashboard"
}

// gracePeriod is how long a command may go on after an interrupt; 0: without limit.
func gracePeriod(command string) time.Duration {
	name, _, _ := strings.Cut(command, " ")
	switch name {
	case "worker", "scheduler", "simulator", "dashboard", "demo": // they stop in order, in a time of their own
		return 0
	case "enqueue", "locks": // they finish what is under way, and say how to resume
		return 2500 * time.Millisecond
	default:
		return time.Second
	}
}

// runInterruptible runs a command. If the command does not end within the grace
// period after an interrupt, it is abandoned: it waits for a Redis that hangs, and
// go-redis would wait until its own time-out.
func runInterruptible(ctx context.Context, grace time.Duration, command func() error) error {
	abandoned := make(chan struct{})
	if grace > 0 {
		stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, func() { close(abandoned) }) })
		defer stop()
	}
	done := make(chan error, 1)
	go func() { done <- command() }()
	select {
	case err := <-done:
		return err
	case <-abandoned:
		return errors.New("interrupted while Redis did not answer")
	}
}
