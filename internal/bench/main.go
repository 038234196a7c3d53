// Command bench measures kooworker, and plain asynq beside it. `make bench` builds both
// and runs it. It prints tables, and writes the same as JSON.
//
//	bench [-quick] [-sections drain,bulk,memory,idle,bytes] [-rounds N] [-json FILE] …
//
// # What runs
//
// Everything runs on this machine: a redis-server of its own, a stand-in for KooDrive
// that answers at once, and one worker at a time, as a process that is started for one
// measurement. kooworker is the real binary with its defaults. A setting in the
// environment applies, such as KOOWORKER_MAX_IN_FLIGHT. Its log goes to a file. Plain asynq is
// this binary as an asynq server, whose handler makes the same call; see plain.go. "Redis
// 2 ms away" is a proxy that delays each way by 1 ms. Only the measured process goes
// through it.
//
// # What is measured
//
//	drain   tasks a second until the queue is empty. All tasks are queued before the
//	        worker starts. The first tenth is not counted: meanwhile the worker connects.
//	        And the CPU time that worker and Redis use for a task: it tells two versions
//	        apart even on a machine that others use as well
//	bulk    lines a second of `kooworker enqueue unbind --file --batch`, from the start
//	        of the process to its end; and the peak of its memory (RSS)
//	memory  the peak of the memory of a worker with a concurrency of 256, and by how much
//	        it grew after the first tenth of its tasks, which are a batch with receipts
//	idle    the CPU time of a worker and its Redis that have nothing to do; and the time
//	        from the call of enqueue to the call at the API, for single tasks
//	bytes   the memory that Redis with deploy/redis.conf needs for a queued task
//
// Redis persists nothing, except for bytes: a disk would add noise of its own.
//
// # Why the figures can be compared
//
// In each round all contenders take their turn, in changing order, over the same Redis,
// which is emptied before. A round before the first is not counted. A drain has as many
// tasks as its contender does in about -time, judging by the round before. Ratios are
// computed in each round, and then the median is taken.
//
// A drain ends when all tasks were called and no queue holds any. Then each task of a
// batch must have its outcome and its receipt. Calls of a task that was called before are
// counted and reported. So is the CPU time that other programs have used meanwhile: if it
// is more than a few percent, only ratios and CPU times mean something.
//
// A target that is missed is no error: bench measures, and does not judge. Its exit code
// is 1 if something failed to run, and 2 if the flags are wrong.
//
// It imports what producers import, and nothing of the worker.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errUsage means that the flags are wrong, and that this was said.
var errUsage = errors.New("wrong usage")

// asPlain is the first argument of a process that is a plain asynq worker.
const asPlain = "plain-asynq"

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == asPlain {
		return runPlain(ctx, args[1:])
	}
	if runtime.GOOS != "linux" {
		return errors.New("bench needs Linux: it reads /proc")
	}
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	r, err := newReport(ctx, o)
	if err != nil {
		return err
	}
	b := &bench{options: o, report: r, stderr: stderr}
	if err = b.start(ctx); err == nil {
		err = b.measure(ctx)
	}
	b.close()
	r.Seconds = time.Since(r.Began).Seconds()
	if len(r.Figures) == 0 {
		return err
	}
	r.print(stdout)
	if o.json != "" {
		err = errors.Join(err, r.write(o.json))
	}
	return err
}

// sizes say how much is measured.
type sizes struct {
	rounds  int           // that are counted
	warmUp  int           // tasks of a drain in the round before, which is not counted; 0: no such round
	drain   int           // most tasks of a drain
	time    time.Duration // how long a drain lasts, about
	bulk    int           // lines of a bulk
	memory  int           // tasks of the worker whose memory is watched
	samples int           // single tasks whose latency is measured
	idle    time.Duration // how long idleness is measured
	bytes   int           // tasks queued to measure the memory of Redis
}

var (
	fullSizes  = sizes{rounds: 3, warmUp: 1000, drain: 100_000, time: 5 * time.Second, bulk: 300_000, memory: 200_000, samples: 300, idle: 10 * time.Second, bytes: 100_000}
	quickSizes = sizes{rounds: 1, drain: 200, time: time.Second, bulk: 2_000, memory: 1_000, samples: 10, idle: 500 * time.Millisecond, bytes: 5_000}
)

type options struct {
	sizes
	concurrency int
	sections    []string
	json        string
	kooworker   string // path of the binary
	redisConf   string // path of the configuration that is shipped
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "measure little, to see that everything runs; the figures mean nothing")
	list := flags.String("sections", strings.Join(sectionNames(), ","), "what to measure")
	flags.StringVar(&o.json, "json", "", "write the figures to this `file` as well")
	flags.StringVar(&o.kooworker, "kooworker", "bin/kooworker", "the binary to measure")
	flags.StringVar(&o.redisConf, "redis-conf", "deploy/redis.conf", "the Redis `settings` with which bytes are measured")
	flags.IntVar(&o.concurrency, "concurrency", 64, "tasks that a worker runs at a time")
	full := fullSizes
	flags.IntVar(&o.rounds, "rounds", 0, fmt.Sprintf("rounds of drain and bulk (default %d)", full.rounds))
	flags.IntVar(&o.drain, "tasks", 0, fmt.Sprintf("most tasks of a drain (default %d)", full.drain))
	flags.DurationVar(&o.time, "time", 0, fmt.Sprintf("how long a drain lasts, about (default %s)", full.time))
	flags.IntVar(&o.bulk, "bulk-tasks", 0, fmt.Sprintf("lines of a bulk (default %d)", full.bulk))
	flags.IntVar(&o.memory, "memory-tasks", 0, fmt.Sprintf("tasks of the worker whose memory is watched (default %d)", full.memory))
	flags.IntVar(&o.samples, "samples", 0, fmt.Sprintf("single tasks whose latency is measured (default %d)", full.samples))
	flags.DurationVar(&o.idle, "idle", 0, fmt.Sprintf("how long idleness is measured (default %s)", full.idle))
	flags.IntVar(&o.bytes, "bytes-tasks", 0, fmt.Sprintf("tasks queued to measure the memory of Redis (default %d)", full.bytes))
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errUsage
	}
	defaults := fullSizes
	if *quick {
		defaults = quickSizes
	}
	o.sizes = o.or(defaults)
	o.sections = strings.Split(*list, ",")
	return o, o.check(flags.Args(), stderr)
}

// or returns the sizes with those that are 0 replaced.
func (s sizes) or(defaults sizes) sizes {
	return sizes{
		rounds: cmp.Or(s.rounds, defaults.rounds), warmUp: defaults.warmUp, drain: cmp.Or(s.drain, defaults.drain), time: cmp.Or(s.time, defaults.time),
		bulk: cmp.Or(s.bulk, defaults.bulk), memory: cmp.Or(s.memory, defaults.memory), samples: cmp.Or(s.samples, defaults.samples),
		idle: cmp.Or(s.idle, defaults.idle), bytes: cmp.Or(s.bytes, defaults.bytes),
	}
}

func (o options) check(rest []string, stderr io.Writer) error {
	var problem string
	for _, name := range o.sections {
		if !slices.Contains(sectionNames(), name) {
			problem = fmt.Sprintf("-sections: there is no %q; want some of %s", name, strings.Join(sectionNames(), ","))
		}
	}
	const fewest = 10 // of which one is the first tenth
	switch {
	case problem != "":
	case len(rest) > 0:
		problem = fmt.Sprintf("unexpected argument %q", rest[0])
	case o.rounds < 1 || o.concurrency < 1 || o.samples < 1 || o.time <= 0 || o.idle <= 0:
		problem = "want more than 0"
	case min(o.drain, o.bulk, o.memory, o.bytes) < fewest:
		problem = fmt.Sprintf("want at least %d tasks", fewest)
	default:
		return nil
	}
	fmt.Fprintln(stderr, "bench:", problem)
	return errUsage
}

// section is one part of the measurements.
type section struct {
	name    string
	measure func(*bench, context.Context) error
}

func sections() []section {
	return []section{
		{"drain", (*bench).measureDrains},
		{"bulk", (*bench).measureBulk},
		{"memory", (*bench).measureMemory},
		{"idle", (*bench).measureIdle},
		{"bytes", (*bench).measureBytes},
	}
}

func sectionNames() []string {
	var names []string
	for _, s := range sections() {
		names = append(names, s.name)
	}
	return names
}

// bench is one run: the servers, and what was measured so far.
type bench struct {
	options
	dir    string // of files that are removed at the end
	redis  *redisServer
	far    *distance
	api    *standIn
	report *report
	stderr io.Writer
}

// start starts the servers. The caller calls close, even after an error.
func (b *bench) start(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "kooworker-bench-"); err != nil {
		return err
	}
	if b.redis, err = startRedis(ctx, b.dir); err != nil {
		return err
	}
	b.report.Machine.Redis = b.redis.version
	if b.far, err = startDistance(b.redis.addr); err != nil {
		return err
	}
	b.api, err = startStandIn(ctx)
	return err
}

func (b *bench) close() {
	if b.api != nil {
		b.api.stop()
	}
	if b.far != nil {
		b.far.stop()
	}
	if b.redis != nil {
		b.redis.stop()
	}
	_ = os.RemoveAll(b.dir)
}

func (b *bench) measure(ctx context.Context) error {
	for _, s := range sections() {
		if !slices.Contains(b.sections, s.name) {
			continue
		}
		before, err := readBusyTime(b.redis.process)
		if err == nil {
			err = s.measure(b, ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		after, err := readBusyTime(b.redis.process)
		if err != nil {
			return err
		}
		b.report.add(figure{Section: s.name, Name: "noise: CPU time of other programs", Unit: "% of the machine", Rounds: []float64{after.percentOfOthers(before)}})
	}
	return nil
}

// place is where Redis is for the measured process.
type place struct {
	name string
	addr string
}

func (b *bench) places() (near, far place) {
	return place{"loopback", b.redis.addr}, place{"Redis 2 ms away", b.far.addr()}
}

// progressf says what is being measured.
func (b *bench) progressf(format string, args ...any) {
	fmt.Fprintf(b.stderr, format+"\n", args...)
}
