package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// answer is what --follow writes for a line.
type answer struct {
	Line   int             `json:"line"`
	Ref    json.RawMessage `json:"ref,omitempty"` // as the line gives it
	ID     string          `json:"id,omitempty"`
	Status enqueue.Status  `json:"status"`
	Error  string          `json:"error,omitempty"`
	RunAt  *time.Time      `json:"run_at,omitempty"` // if that is later than now
}

const (
	// followLinger is how long a line waits for others, which then go to Redis with it.
	followLinger = time.Millisecond
	// followCheck is how long lines are answered before Redis is asked whether it still has
	// their tasks.
	followCheck = time.Minute
	// followStop is how long answers may wait for their reader after an interrupt.
	followStop = 1500 * time.Millisecond
)

// checkFollow checks the flags that go with --follow.
func (c *enqueueFlags) checkFollow() error {
	switch {
	case !c.Follow:
		return nil
	case c.File.File != "-":
		return usagef("--follow: only with --file -, which is standard input")
	case c.File.Format == "csv":
		return usagef("--follow: a pipe is read as JSON lines; leave out --format csv")
	case c.File.Rejects != "":
		return usagef("--follow: leave out --rejects; the answer to a line says what is wrong with it")
	case c.Batch.Wait:
		return usagef("--follow: leave out --wait; when the input has ended, use kooworker batch wait ID")
	}
	return nil
}

// runFollow enqueues the lines of standard input as they come, and answers each.
func (c *enqueueFlags) runFollow(e *env, kind tasks.Kind) error {
	_, client, err := c.client(e, bulkPool)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(e.ctx)
	defer stop(nil)
	p := newPipe(ctx)
	defer context.AfterFunc(ctx, func() { time.AfterFunc(followStop, func() { close(p.giveUp) }) })()
	go p.read(kind, e.stdin, anyID(c.AllowAnyID)...)
	written := make(chan struct{})
	go func() {
		defer close(written)
		p.write(e.stdout, stop)
	}()

	sum, err := p.enqueue(c, e, client)
	close(p.answers)
	select {
	case <-written:
	case <-p.giveUp:
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return p.stopError(err, sum.Batch)
	}
	fmt.Fprintln(e.stderr, sum)
	if sum.Rejected > 0 {
		return errPartial
	}
	return nil
}

// pipe is one run of --follow. The lines pass through it like this:
//
//	read -> lines -> input -> Bulk -> report -> answers -> write
//
// If the process dies, tasks may be stored whose lines have no answer. Their lines are
// sent again, and are duplicates then.
type pipe struct {
	ctx     context.Context //nolint:containedctx // it lives as long as the pipe
	check   time.Duration
	lines   chan pipeLine
	answers chan answer
	giveUp  chan struct{} // closed when nobody has read the answers for too long after an interrupt
	written atomic.Int64  // the last line whose answer was written

	mu       sync.Mutex // guards what follows
	waiting  []slot     // the lines without an answer, in their order
	first    int64      // the number of waiting's first line as an item of the bulk
	resendAt int        // the line from which to send again after an error
	// open has the tasks of lines without an answer; a channel is closed with the answer. It is
	// nil in a batch, whose ledger may need further lines before it can answer one.
	open  map[string]chan struct{}
	later runTimes
}

func newPipe(ctx context.Context) *pipe {
	return &pipe{
		ctx: ctx, check: followCheck, giveUp: make(chan struct{}),
		lines:   make(chan pipeLine, 32), // a refused line may be a megabyte
		answers: make(chan answer, 1024),
	}
}

// pipeLine is a line of the input.
type pipeLine struct {
	task   tasks.Task
	err    error
	answer answer // what is known of it: its number and its ref
}

// slot is the answer to a line, from when the line is read.
type slot struct {
	answer
	known bool
	task  string // its identity; empty: none
}

// read reads the lines until the input or the pipe ends. If the input blocks then, this
// goroutine ends with the process.
func (p *pipe) read(kind tasks.Kind, in io.Reader, opts ...records.Option) {
	defer close(p.lines)
	var line pipeLine
	opts = append(opts, records.OnLine(func(n int, ref json.RawMessage) { line.answer = answer{Line: n, Ref: ref} }))
	for line.task, line.err = range records.TasksJSONL(kind, in, opts...) {
		select {
		case p.lines <- line:
		case <-p.ctx.Done():
			return
		}
	}
}

// enqueue enqueues all lines. Without a batch it does so in several bulks, because a bulk
// looks only at its end whether Redis has lost tasks, and keeps bits for that in Redis.
func (p *pipe) enqueue(c *enqueueFlags, e *env, client *enqueue.Client) (sum bulkSummary, err error) {
	start := time.Now()
	sum.Batch = c.Batch.Batch
	defer func() { sum.Seconds, sum.RunAt, sum.later = time.Since(start).Seconds(), p.later.json(c.At), p.later }()
	o := enqueue.BulkOptions{
		Batch: c.Batch.spec(), Restore: c.Batch.Restore, Options: c.options(), Timeout: c.Timeout,
		SingleOrders: true, Linger: followLinger,
		OnStart: printBatch(e.stderr), OnItem: p.report,
	}
	if o.Batch != nil {
		p.resendAt = 1
		res, err := client.Bulk(p.ctx, p.input(nil, nil), o)
		return sum.plus(res), err
	}
	p.open = make(map[string]chan struct{})
	for {
		select {
		case line, more := <-p.lines:
			if !more {
				return sum, nil
			}
			p.begin(line)
			res, err := client.Bulk(p.ctx, p.input(&line, time.After(p.check)), o)
			sum = sum.plus(res)
			if err != nil {
				return sum, err
			}
		case <-p.ctx.Done():
			return sum, p.ctx.Err()
		}
	}
}

// begin begins another bulk. All lines of the last one are answered.
func (p *pipe) begin(first pipeLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting, p.first, p.resendAt = nil, 0, first.answer.Line
}

// input yields what the lines hold until the input ends, or until a time.
func (p *pipe) input(first *pipeLine, until <-chan time.Time) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		if first != nil && !p.pass(*first, yield) {
			return
		}
		for {
			select {
			case line, more := <-p.lines:
				if !more || !p.pass(line, yield) {
					return
				}
			case <-until:
				return
			case <-p.ctx.Done():
				return
			}
		}
	}
}

// pass yields what a line holds, after it has kept a slot for the answer. A line with the task
// of an earlier one waits for the answer to that one: the two might reach Redis in the other
// order, and the first one would be the duplicate.
func (p *pipe) pass(line pipeLine, yield func(tasks.Task, error) bool) bool {
	s := slot{answer: line.answer}
	if line.err == nil {
		s.task = tasks.Identity(line.task)
	}
	for {
		p.mu.Lock()
		twin := p.open[s.task]
		if twin == nil {
			break
		}
		p.mu.Unlock()
		select {
		case <-twin:
		case <-p.ctx.Done():
			return false
		}
	}
	if p.open != nil && s.task != "" {
		p.open[s.task] = make(chan struct{})
	}
	p.waiting = append(p.waiting, s)
	p.mu.Unlock()
	return yield(line.task, line.err)
}

// report answers a line, and those after it whose answers were waiting for this one.
func (p *pipe) report(item enqueue.Item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.waiting[item.Number-p.first]
	s.known, s.ID, s.Status = true, item.ID, item.Status
	if answered := p.open[s.task]; answered != nil {
		close(answered)
		delete(p.open, s.task)
	}
	if bad, ok := errors.AsType[*records.LineError](item.Err); ok {
		s.Error = bad.Err.Error() // without the number of the line
	} else if item.Err != nil {
		s.Error = item.Err.Error()
	}
	p.later.add(item)
	if runsLater(item.RunAt) {
		s.RunAt = jsonTime(item.RunAt)
	}
	for len(p.waiting) > 0 && p.waiting[0].known {
		select {
		case p.answers <- p.waiting[0].answer:
		case <-p.giveUp:
			return // and so does every later call: an answer is never left out
		}
		p.waiting, p.first = p.waiting[1:], p.first+1
	}
}

// write writes the answers. Those that are there go out together, and none waits for a
// later one. It stops the pipe if it cannot write.
func (p *pipe) write(w io.Writer, stop context.CancelCauseFunc) {
	const full = 32 << 10 // another answer always fits, so that nothing is written but here
	buffer := bufio.NewWriterSize(w, 2*full)
	var failed error
	for a := range p.answers {
		if failed != nil {
			continue
		}
		if failed = writeJSON(buffer, a); failed == nil && (len(p.answers) == 0 || buffer.Buffered() > full) {
			if failed = buffer.Flush(); failed != nil {
				failed = fmt.Errorf("write the output: %w", failed)
			}
		}
		if failed != nil {
			stop(commandError{failed, exitFailed, ""})
		} else if buffer.Buffered() == 0 {
			p.written.Store(int64(a.Line))
		}
	}
}

// stopError says from which line on to send again after an error. A line that was answered
// may be among them: its task may be what Redis has lost.
func (p *pipe) stopError(err error, batchID string) error {
	p.mu.Lock()
	resendAt := p.resendAt
	p.mu.Unlock()
	written := p.written.Load()
	if errors.Is(err, context.Canceled) {
		resendAt = int(written) + 1
	}
	when := fmt.Sprintf("after the answer to line %d", written)
	if written == 0 {
		when = "before the first answer"
	}
	resend := fmt.Sprintf("send again from line %d on: what is stored already is then a duplicate", max(resendAt, 1))
	if batchID != "" {
		resend = fmt.Sprintf("to resume, send all lines again with --batch %s: what the batch has is then skipped", batchID)
	}
	switch bad, isInput := errors.AsType[*enqueue.InputError](err); {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted %s; %s", when, resend)
	case isInput:
		err = usagef("--file: %w", bad.Err)
	case isUsage(err):
		err = usageError(err)
	case !is[commandError](err):
		err = redisError(err)
	}
	return fmt.Errorf("stopped %s: %w; %s", when, err, resend)
}
