package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync/atomic"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

type fileFlags struct {
	File    string `placeholder:"FILE" help:"Take every line of this file; - is standard input. CSV has a header. May be gzipped."`
	Format  string `enum:",csv,jsonl" default:"" placeholder:"FORMAT" help:"csv or jsonl; without it the file's name tells, and csv is assumed."`
	Rejects string `placeholder:"FILE" help:"Keep the lines that were refused in this file, as they were, to be repaired and fed in again; why each was, in FILE.reasons."`
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
	if f.jsonl() {
		return records.TasksJSONL(kind, r)
	}
	return records.TasksCSV(kind, r)
}

// readLocks reads locks, with the expiries that the file says.
func (f fileFlags) readLocks(r io.Reader) iter.Seq2[tasks.Lock, error] {
	if f.jsonl() {
		return records.LocksJSONL(r, nil)
	}
	return records.LocksCSV(r, nil)
}

// readLockIDs reads locks, and passes their expiries over.
func (f fileFlags) readLockIDs(r io.Reader) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		for t, err := range f.read(tasks.KindLockRelease, r) {
			var l tasks.Lock
			if err == nil {
				l = tasks.Lock{UserID: t.User(), LockID: t.Target()}
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

func (f fileFlags) jsonl() bool {
	name := strings.TrimSuffix(f.File, ".gz")
	return f.Format == "jsonl" || f.Format == "" && (strings.HasSuffix(name, ".jsonl") || strings.HasSuffix(name, ".ndjson"))
}

// source is an input that is being read, and how much of it has been.
type source struct {
	io.ReadCloser
	info os.FileInfo // nil: not known
	size int64       // 0: not known
	read atomic.Int64
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.read.Add(int64(n))
	return n, err
}

func (f fileFlags) open(stdin io.Reader) (*source, error) {
	if f.File == "-" {
		s := &source{ReadCloser: io.NopCloser(stdin)}
		if file, ok := stdin.(*os.File); ok {
			s.info, _ = file.Stat()
		}
		return s, nil
	}
	file, err := os.Open(f.File)
	if err != nil {
		return nil, usagef("--file: %w", err)
	}
	s := &source{ReadCloser: file}
	if s.info, err = file.Stat(); err == nil && s.info.Mode().IsRegular() {
		s.size = s.info.Size()
	}
	return s, nil
}

// begin opens the file that is read, and those that keep what is refused of it.
func (f fileFlags) begin(a *app) (*source, *rejects, error) {
	in, err := f.open(a.stdin)
	if err != nil {
		return nil, nil, err
	}
	rejects, err := newRejects(f.Rejects, in, a.stderr)
	if err != nil {
		_ = in.Close()
		return nil, nil, err
	}
	return in, rejects, nil
}

// file enqueues a file.
func (c *enqueueFlags) file(a *app, kind tasks.Kind) error {
	in, rejects, err := c.File.begin(a)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	err = c.many(a, c.File.read(kind, interruptible{a.ctx, in}), in, rejects)
	if failed := rejects.close(); failed != nil {
		return fmt.Errorf("--rejects: %w", failed) // a list of what is to be repaired must be whole
	}
	return err
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

// rejects keeps the lines that were refused: all in the file, where there is
// one, and the first few on the terminal.
type rejects struct {
	stderr  io.Writer
	told    int
	file    *os.File // nil: none is kept
	lines   *records.Rejects
	whyFile *os.File
	why     *bufio.Writer
	failed  error
}

const tellRejects = 10

func newRejects(path string, in *source, stderr io.Writer) (*rejects, error) {
	r := &rejects{stderr: stderr}
	if path == "" {
		return r, nil
	}
	var err error
	if there, err := os.Stat(path); err == nil && in.info != nil && os.SameFile(there, in.info) {
		return nil, usagef("--rejects: %s is the file that is read; want another one", path)
	}
	if r.file, err = os.Create(path); err != nil { //nolint:gosec // the operator's own choice
		return nil, usagef("--rejects: %w", err)
	}
	r.lines, r.why = records.NewRejects(r.file), bufio.NewWriter(io.Discard)
	info, err := r.file.Stat()
	if err != nil {
		_ = r.file.Close()
		return nil, usagef("--rejects: %w", err)
	}
	if !info.Mode().IsRegular() { // a pipe or a device: nothing belongs beside it
		return r, nil
	}
	if r.whyFile, err = os.Create(path + ".reasons"); err != nil { //nolint:gosec // beside it
		_ = r.file.Close()
		return nil, usagef("--rejects: %w", err)
	}
	r.why.Reset(r.whyFile)
	return r, nil
}

// keepRejects passes an input on, and keeps what is refused of it on its way: here,
// since the lines come in their order here.
func keepRejects[T any](r *rejects, in iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for item, err := range in {
			if bad, ok := errors.AsType[*records.LineError](err); ok {
				if r.failed = r.add(bad); r.failed != nil {
					yield(item, r.failed)
					return
				}
			}
			if !yield(item, err) {
				return
			}
		}
	}
}

func (r *rejects) add(bad *records.LineError) error {
	switch r.told++; {
	case r.told <= tellRejects:
		say(r.stderr, "rejected: %v\n", bad)
	case r.told == tellRejects+1:
		say(r.stderr, "rejected: further lines are counted, and kept by --rejects\n")
	}
	if r.file == nil {
		return nil
	}
	line, err := json.Marshal(map[string]any{"line": bad.Line, "error": bad.Err.Error()})
	if err != nil {
		return err
	}
	_, err = r.why.Write(append(line, '\n'))
	return errors.Join(err, r.lines.Add(bad))
}

func (r *rejects) close() error {
	if r.file == nil {
		return nil
	}
	failed := cmp.Or(r.failed, r.lines.Flush(), r.file.Close(), r.why.Flush())
	if r.whyFile != nil {
		failed = cmp.Or(failed, r.whyFile.Close())
	}
	return failed
}
