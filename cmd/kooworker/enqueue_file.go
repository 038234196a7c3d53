package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/tasks"
)

type fileFlags struct {
	File    string `placeholder:"FILE" help:"Enqueue every line of this file; - is standard input. CSV has a header."`
	Format  string `enum:",csv,jsonl" default:"" placeholder:"FORMAT" help:"csv or jsonl; without it the file's name tells, and csv is assumed."`
	Rejects string `placeholder:"FILE" help:"Write the lines that were refused to this file, with the reason."`
}

// refuse complains about flags that only make sense with --file.
func (f fileFlags) refuse() error {
	switch {
	case f.Format != "":
		return usagef("--format: only with --file")
	case f.Rejects != "":
		return usagef("--rejects: only with --file")
	}
	return nil
}

func (f fileFlags) read(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	if f.Format == "jsonl" || f.Format == "" && (strings.HasSuffix(f.File, ".jsonl") || strings.HasSuffix(f.File, ".ndjson")) {
		return enqueue.ReadJSONL(kind, r)
	}
	return enqueue.ReadCSV(kind, r)
}

func (f fileFlags) open(stdin io.Reader) (io.ReadCloser, error) {
	if f.File == "-" {
		return io.NopCloser(stdin), nil
	}
	file, err := os.Open(f.File)
	if err != nil {
		return nil, usagef("--file: %w", err)
	}
	return file, nil
}

// bulkSummary is the contract's object for many tasks.
type bulkSummary struct {
	Batch     string  `json:"batch"`
	Total     int64   `json:"total"`
	Enqueued  int64   `json:"enqueued"`
	Duplicate int64   `json:"duplicate"`
	Rejected  int64   `json:"rejected"`
	Skipped   int64   `json:"skipped"`
	Seconds   float64 `json:"seconds"`
}

// inParallel is how many tasks of a file are on their way to Redis at a time.
const inParallel = 64

// many enqueues a file. Redis failing, or Ctrl-C, ends it with what was done so
// far; since a task that is outstanding is a duplicate, the same file can be
// given again.
func (c *enqueueFlags) many(a *app, kind tasks.Kind) error {
	in, err := c.File.open(a.stdin)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	rejects, err := newRejects(c.File.Rejects, a.stderr)
	if err != nil {
		return err
	}
	client, done, err := c.client(a, inParallel)
	if err != nil {
		return err
	}
	defer done()

	start := time.Now()
	var sum bulkSummary
	err = c.feed(a.ctx, client, kind, in, &sum, rejects)
	if closeErr := rejects.close(); err == nil && closeErr != nil {
		err = fmt.Errorf("--rejects: %w", closeErr)
	}
	if _, unreadable := errors.AsType[usageError](err); unreadable && sum.Total == 0 {
		return err // nothing was done that could be summed up
	}
	sum.Seconds = time.Since(start).Seconds()
	if printErr := c.printSummary(a, sum); err == nil {
		err = printErr
	}
	if err == nil && sum.Rejected > 0 {
		return errPartial
	}
	return stopped(err, sum.Total)
}

// stopped says how to go on after an error, where the same command would.
func stopped(err error, lines int64) error {
	const goOn = "the same command again goes on, what is outstanding is a duplicate"
	if errors.Is(err, errInterrupted) {
		return fmt.Errorf("interrupted after %d lines; %s", lines, goOn)
	}
	if _, ofRedis := errors.AsType[redisError](err); ofRedis {
		return fmt.Errorf("stopped after %d lines: %w; %s", lines, err, goOn)
	}
	return err
}

// errInterrupted is Ctrl-C, or SIGTERM.
var errInterrupted = errors.New("interrupted")

// feed enqueues the file until it ends. An error is errInterrupted, a
// redisError, a usageError of the file, or one of the rejects.
func (c *enqueueFlags) feed(ctx context.Context, client *enqueue.Client, kind tasks.Kind, in io.Reader, sum *bulkSummary, rejects *rejects) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg                  sync.WaitGroup
		queue               = make(chan tasks.Task)
		enqueued, duplicate atomic.Int64
	)
	for range inParallel {
		wg.Go(func() {
			for t := range queue {
				switch res, err := c.one(ctx, client, t); {
				case err != nil:
					cancel(redisError{err}) // nothing where Ctrl-C was first
				case res.Status == enqueue.Duplicate:
					duplicate.Add(1)
				default:
					enqueued.Add(1)
				}
			}
		})
	}
	err := deliver(ctx, c.File.read(kind, interruptible{ctx, in}), queue, sum, rejects)
	close(queue)
	wg.Wait()
	sum.Enqueued, sum.Duplicate = enqueued.Load(), duplicate.Load()
	if all := sum.Enqueued+sum.Duplicate+sum.Rejected == sum.Total; err == nil && !all {
		err = whyDone(ctx)
	}
	return err
}

// whyDone returns why a context of feed is done.
func whyDone(ctx context.Context) error {
	cause := context.Cause(ctx)
	if _, ofRedis := errors.AsType[redisError](cause); ofRedis {
		return cause
	}
	return errInterrupted
}

// interruptible is a reader that ends with its context. A read that waits just
// then, for a terminal or a pipe, cannot be called back: it is left behind, with
// the buffer it reads into.
type interruptible struct {
	ctx context.Context //nolint:containedctx // io.Reader has no place for it
	r   io.Reader
}

// Read implements io.Reader.
func (i interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text := make([]byte, len(p))
		n, err := i.r.Read(text)
		done <- result{text[:n], err}
	}()
	select {
	case r := <-done:
		return copy(p, r.text), r.err
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	}
}

// deliver hands the tasks of the lines over, and counts those that are none.
func deliver(ctx context.Context, lines iter.Seq2[tasks.Task, error], queue chan<- tasks.Task, sum *bulkSummary, rejects *rejects) error {
	for t, err := range lines {
		var bad *enqueue.LineError
		switch {
		case errors.As(err, &bad):
			sum.Total++
			sum.Rejected++
			if err := rejects.add(bad); err != nil {
				return fmt.Errorf("--rejects: %w", err)
			}
			continue
		case ctx.Err() != nil:
			return whyDone(ctx)
		case err != nil:
			return usageError{fmt.Errorf("--file: %w", err)}
		}
		select {
		case queue <- t:
			sum.Total++
		case <-ctx.Done():
			return whyDone(ctx)
		}
	}
	return nil
}

func (c *enqueueFlags) one(ctx context.Context, client *enqueue.Client, t tasks.Task) (enqueue.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return client.Enqueue(ctx, t, c.options()...)
}

func (c *enqueueFlags) printSummary(a *app, sum bulkSummary) error {
	if c.JSON {
		return writeJSON(a.stdout, sum)
	}
	say(a.stdout, "%d lines: %d enqueued, %d duplicate, %d rejected, in %.1f s\n", sum.Total, sum.Enqueued, sum.Duplicate, sum.Rejected, sum.Seconds)
	return nil
}

// rejects tells of the lines that were refused: all in the file, where there
// is one, and the first few to the terminal.
type rejects struct {
	file   *os.File
	out    *bufio.Writer
	stderr io.Writer
	told   int
}

const tellRejects = 10

func newRejects(path string, stderr io.Writer) (*rejects, error) {
	r := &rejects{stderr: stderr}
	if path == "" {
		return r, nil
	}
	file, err := os.Create(path) //nolint:gosec // the operator's own choice
	if err != nil {
		return nil, usagef("--rejects: %w", err)
	}
	r.file, r.out = file, bufio.NewWriter(file)
	return r, nil
}

func (r *rejects) add(bad *enqueue.LineError) error {
	switch r.told++; {
	case r.told <= tellRejects:
		say(r.stderr, "rejected: %v\n", bad)
	case r.told == tellRejects+1:
		say(r.stderr, "rejected: further lines are counted, and written to --rejects\n")
	}
	if r.out == nil {
		return nil
	}
	return writeJSON(r.out, map[string]any{"line": bad.Line, "error": bad.Err.Error(), "text": bad.Text})
}

func (r *rejects) close() error {
	if r.file == nil {
		return nil
	}
	return errors.Join(r.out.Flush(), r.file.Close())
}
