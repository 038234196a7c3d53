package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// followed is a kooworker enqueue --follow, and a program at the other ends of its pipes.
type followed struct {
	t       *testing.T
	in      *io.PipeWriter
	answers *bufio.Scanner
	stderr  redistest.Buffer
	stop    context.CancelFunc // as Ctrl-C does
	code    chan int
}

func follow(t *testing.T, server *redistest.Server, args ...string) *followed {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	f := &followed{t: t, in: in, answers: bufio.NewScanner(out), stop: stop, code: make(chan int, 1)}
	args = append([]string{"enqueue", "unbind", "--file", "-", "--follow", "--redis-url", server.URL()}, args...)
	go func() {
		f.code <- run(ctx, args, stdin, stdout, &f.stderr)
		_ = stdout.Close()
	}()
	t.Cleanup(func() { stop(); _ = in.Close(); _ = out.Close() })
	return f
}

func (f *followed) send(lines ...string) {
	f.t.Helper()
	if _, err := io.WriteString(f.in, strings.Join(lines, "\n")+"\n"); err != nil {
		f.t.Fatalf("%v; %s", err, f.stderr.String())
	}
}

// answer returns the next answer.
func (f *followed) answer() (a answer) {
	f.t.Helper()
	if !f.answers.Scan() {
		f.t.Fatalf("no answer; %s", f.stderr.String())
	}
	if err := json.Unmarshal(f.answers.Bytes(), &a); err != nil {
		f.t.Fatalf("%s: %v", f.answers.Bytes(), err)
	}
	return a
}

// end waits until the command has ended, which must be soon, and checks what it says.
func (f *followed) end(code int, said ...string) {
	f.t.Helper()
	began := time.Now()
	if got := <-f.code; got != code || time.Since(began) > 10*time.Second {
		f.t.Errorf("exit %d after %s, %s; want %d", got, time.Since(began), f.stderr.String(), code)
	}
	for _, want := range said {
		if !strings.Contains(f.stderr.String(), want) {
			f.t.Errorf("stderr is %q; want %q", f.stderr.String(), want)
		}
	}
}

func deviceLine(i int) string {
	return fmt.Sprintf(`{"user_id":"u","device_id":"d-%d","ref":%d}`, i, i)
}

func queuedUnbinds(t *testing.T, server *redistest.Server) int {
	t.Helper()
	return infoOf(t, asynq.NewInspectorFromRedisClient(server.Client()), tasks.QueueUnbind).Size
}

func TestFollow_AnswersEachLine(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Start(t))
	f.send(
		`{"user_id":"u","device_id":"d-1","ref":"a"}`,
		`{"user_id":"u","device_id":"d-1","ref":{"n": 1}}`,
		``,
		`oops`,
		`{"user_id":"u","device_id":"../x","ref":5}`,
		`{"user_id":"NULL","device_id":"d"}`,
		`{"user_id":"u","device_id":"d-2"}`,
	)
	for _, want := range []string{
		`{"line":1,"ref":"a","id":"device:unbind:u:d-1","status":"enqueued"}`,
		`{"line":2,"ref":{"n":1},"id":"device:unbind:u:d-1","status":"duplicate"}`,
		`{"line":4,"status":"rejected","error":"is not JSON: invalid character 'o' looking for beginning of value"}`,
		`{"line":5,"ref":5,"status":"rejected","error":"device_id is \"../x\"; want 1 to 64 letters, digits, hyphens or underscores"}`,
		`{"line":6,"status":"rejected","error":"user_id is \"NULL\", which stands for no value; want an id"}`,
		`{"line":7,"id":"device:unbind:u:d-2","status":"enqueued"}`,
	} {
		f.answer()
		if got := f.answers.Text(); got != want {
			t.Errorf("the answer is\n%s; want\n%s", got, want)
		}
	}
	_ = f.in.Close()
	f.end(exitPartial, "6 lines: 2 enqueued, 1 duplicate, 3 rejected, in ")
}

func TestFollow_SaysWhenATaskRuns(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Start(t), "--at", "2099-12-01T00:00:00Z")
	f.send(deviceLine(1), deviceLine(1))
	want := time.Date(2099, 12, 1, 0, 0, 0, 0, time.UTC)
	for range 2 { // a duplicate runs when the first one does
		if a := f.answer(); a.RunAt == nil || !a.RunAt.Equal(want) {
			t.Errorf("%+v; want run_at %s", a, want)
		}
	}
	_ = f.in.Close()
	f.end(exitDone, "; it runs from 2099-12-01T00:00:00Z on")
}

// A program that sends a line and waits for the answer is not slowed down.
func TestFollow_AnswersALineAtOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, args := range [][]string{nil, {"--batch", "b"}} {
		f := follow(t, server, args...)
		shortest := time.Minute // a busy machine may delay some answers, and a wait for more lines delays all
		for i := range 50 {
			began := time.Now()
			f.send(deviceLine(i))
			if a := f.answer(); a.Line != i+1 || a.Status != enqueue.Enqueued || string(a.Ref) != fmt.Sprint(i) {
				t.Fatalf("%+v; want line %d enqueued", a, i+1)
			}
			shortest = min(shortest, time.Since(began))
		}
		if shortest > 50*time.Millisecond {
			t.Errorf("%v: of lines one after the other, none was answered within %s; want some milliseconds", args, shortest)
		}
		_ = f.in.Close()
		f.end(exitDone)
	}
}

// The answers keep the order of the lines, though many chunks are written at a time.
func TestFollow_KeepsTheOrder(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := follow(t, server)
	const n = 20_000
	go func() {
		out := bufio.NewWriter(f.in)
		for i := range n {
			line := deviceLine(i)
			if i%7 == 0 {
				line = "bad"
			}
			_, _ = fmt.Fprintln(out, line) // a lost line is missed below
		}
		_ = out.Flush()
		_ = f.in.Close()
	}()
	for i := range n {
		if a := f.answer(); a.Line != i+1 || (a.Status == enqueue.Rejected) != (i%7 == 0) {
			t.Fatalf("%+v; want the answer to line %d", a, i+1)
		}
	}
	f.end(exitPartial)
	if got := queuedUnbinds(t, server); got != n-n/7-1 {
		t.Errorf("%d tasks are queued; want %d", got, n-n/7-1)
	}
}

// The orders of a pipe do not wait for files, and a single order is a duplicate of them.
func TestFollow_SingleOrders(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := follow(t, server)
	f.send(deviceLine(1))
	f.answer()
	r := kooworker(t, "", "enqueue", "unbind", "--user-id", "u", "--device-id", "d-1", "--json", "--redis-url", server.URL())
	if got := r.object(t)["status"]; got != "duplicate" {
		t.Errorf("the same order by itself is %v; want a duplicate", got)
	}
	_ = f.in.Close()
	f.end(exitDone)
}

func TestFollow_ClosesTheBatchAtTheEnd(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := follow(t, server, "--batch", "b")
	// Lines that are sent together may reach Redis in any order.
	for _, line := range []struct {
		sent string
		want enqueue.Status
	}{{deviceLine(1), enqueue.Enqueued}, {"bad", enqueue.Rejected}, {deviceLine(1), enqueue.Duplicate}} {
		f.send(line.sent)
		if a := f.answer(); a.Status != line.want {
			t.Errorf("%+v; want %s", a, line.want)
		}
	}
	_ = f.in.Close()
	f.end(exitPartial, "batch b\n", "3 lines: 1 enqueued, 1 duplicate, 1 rejected")
	again := follow(t, server, "--batch", "b")
	again.send(deviceLine(1), "bad", deviceLine(1), deviceLine(2)) // a line more than the batch has
	again.end(exitUsage, "resuming batch b\n", "batch b was begun with another input: this one is longer", "to resume, send all lines again with --batch b")
}

// Of two lines with the same task the first one is stored, and the second one is the duplicate,
// however close they follow each other.
func TestFollow_FirstOfTwins(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := follow(t, server)
	const n = 300
	var lines []string
	for i := range n {
		lines = append(lines, deviceLine(i), deviceLine(i))
	}
	f.send(lines...)
	for i := range n {
		first, second := f.answer(), f.answer()
		if first.Status != enqueue.Enqueued || second.Status != enqueue.Duplicate || first.ID != second.ID {
			t.Fatalf("pair %d: %+v and %+v; want the first enqueued, and the second a duplicate", i, first, second)
		}
	}
	_ = f.in.Close()
	f.end(exitDone, "600 lines: 300 enqueued, 300 duplicate")
}

// Redis is away for a while: the line waits.
func TestFollow_WaitsForRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	f := follow(t, server, "--timeout", "30s")
	f.send(deviceLine(1))
	f.answer()
	server.Kill()
	f.send(deviceLine(2))
	letTimePass(200 * time.Millisecond)
	server.Restart()
	if a := f.answer(); a.Line != 2 || a.Status != enqueue.Enqueued {
		t.Errorf("%+v; want line 2 enqueued", a)
	}
	_ = f.in.Close()
	f.end(exitDone)
	if got := queuedUnbinds(t, server); got != 2 {
		t.Errorf("%d tasks are queued; want 2", got)
	}
}

// Redis does not come back in time: no line is answered that may not be stored.
func TestFollow_GivesUpOnRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := follow(t, server, "--timeout", "2s")
	f.send(deviceLine(1))
	f.answer()
	server.Kill()
	f.send(deviceLine(2), "bad")
	f.end(exitFailed, "stopped after the answer to line 1: ", "send again from line 1 on: what is stored already is then a duplicate", "hint: ")
	if f.answers.Scan() {
		t.Errorf("there is another answer: %s", f.answers.Text())
	}
}

// Redis has lost a task that was answered.
func TestFollow_SaysThatRedisHasLostTasks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := follow(t, server)
	f.send(deviceLine(1), deviceLine(2))
	f.answer()
	f.answer()
	server.Kill()
	server.Restart() // it persists nothing
	_ = f.in.Close()
	f.end(exitFailed, "Redis has lost tasks that it had acknowledged", "send again from line 1 on")
}

// While a pipe stays open, Redis is asked now and then whether it still has the tasks.
func TestFollow_ChecksWhileThePipeIsOpen(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	p := newPipe(t.Context())
	p.check = 50 * time.Millisecond
	done := make(chan error, 1)
	go func() {
		_, err := p.enqueue(&enqueueFlags{Timeout: 10 * time.Second}, &env{stderr: io.Discard}, client)
		done <- err
	}()
	bits := func() int { return len(rdb.Keys(t.Context(), "kooworker:bulk:*").Val()) }
	for i := 1; i <= 3; i++ {
		p.lines <- pipeLine{task: tasks.DeviceUnbind{UserID: "u", DeviceID: fmt.Sprint(i)}, answer: answer{Line: i}}
		if a := <-p.answers; a.Line != i || a.Status != enqueue.Enqueued {
			t.Fatalf("%+v; want line %d enqueued", a, i)
		}
		redistest.Eventually(t, 10*time.Second, "the check is over", func() bool { return bits() == 0 })
	}
	p.lines <- pipeLine{task: tasks.DeviceUnbind{UserID: "u", DeviceID: "4"}, answer: answer{Line: 4}}
	<-p.answers
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := p.stopError(<-done, ""); !strings.Contains(err.Error(), "Redis has lost tasks") || !strings.Contains(err.Error(), "send again from line 4 on") {
		t.Errorf("%v; want that Redis has lost tasks, and line 4", err)
	}
}

// An interrupt in the middle of a flood: what is stored was answered, and the reverse.
func TestFollow_Interrupted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := follow(t, server)
	go func() { // faster than Redis, and without end
		for i := 0; ; i++ {
			if _, err := io.WriteString(f.in, deviceLine(i)+"\n"); err != nil {
				return
			}
		}
	}()
	for range 5000 {
		f.answer()
	}
	f.stop()
	last := 5000
	for f.answers.Scan() {
		var a answer
		if err := json.Unmarshal(f.answers.Bytes(), &a); err != nil || a.Line != last+1 {
			t.Fatalf("%s, %v; want the answer to line %d", f.answers.Bytes(), err, last+1)
		}
		last++
	}
	f.end(exitFailed, fmt.Sprintf("kooworker: interrupted after the answer to line %d; send again from line %d on", last, last+1))
	if got := queuedUnbinds(t, server); got != last {
		t.Errorf("%d tasks are queued, %d lines were answered; want the same", got, last)
	}
}

// The program at the other end has stopped to read the answers.
func TestFollow_InterruptedWhileNobodyReads(t *testing.T) {
	t.Parallel()
	f := follow(t, redistest.Start(t))
	go func() {
		for i := 0; ; i++ {
			if _, err := io.WriteString(f.in, deviceLine(i)+"\n"); err != nil {
				return
			}
		}
	}()
	for range 100 {
		f.answer()
	}
	f.stop()
	f.end(exitFailed, "kooworker: interrupted ", "; send again from line ")
}

// brokenWriter is a full disk behind stdout.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestFollow_CannotWriteTheAnswers(t *testing.T) {
	t.Parallel()
	stdin, in := io.Pipe()
	t.Cleanup(func() { _ = in.Close() })
	go func() { _, _ = io.WriteString(in, deviceLine(1)+"\n") }() // the pipe stays open
	var stderr redistest.Buffer
	code := run(t.Context(), []string{"enqueue", "unbind", "--file", "-", "--follow", "--redis-url", redistest.Start(t).URL()}, stdin, brokenWriter{}, &stderr)
	want := "kooworker: stopped before the first answer: write the output: no space left on device; send again from line 1 on: what is stored already is then a duplicate\n"
	if code != exitFailed || stderr.String() != want {
		t.Errorf("exit %d, %s; want 1 and %s", code, stderr.String(), want)
	}
}

func TestFollow_WrongUsage(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	want := map[string]string{
		"--user-id u --device-id d --follow":        "--follow: only with --file -, which is standard input",
		"--file x.jsonl --follow":                   "--follow: only with --file -, which is standard input",
		"--file - --follow --format csv":            "--follow: a pipe is read as JSON lines; leave out --format csv",
		"--file - --follow --rejects bad.jsonl":     "--follow: leave out --rejects; the answer to a line says what is wrong with it",
		"--file - --follow --wait --batch deletion": "--follow: leave out --wait; when the input has ended, use kooworker batch wait ID",
	}
	for args := range want {
		r := kooworker(t, "", append([]string{"enqueue", "unbind"}, strings.Fields(args)...)...)
		got[args] = strings.TrimSuffix(strings.TrimPrefix(r.stderr, "kooworker: "), "\n")
		if r.code != exitUsage {
			t.Errorf("%s: exit %d; want 2", args, r.code)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
