package main

import (
	"context"
	"io"
	"iter"
	"os"
	"strings"
	"sync/atomic"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// fileFlags name a file with many targets, for enqueue and for locks.
type fileFlags struct {
	File    string `placeholder:"FILE" help:"Take every line of this file; - is standard input. CSV has a header. The file may be gzipped."`
	Format  string `enum:",csv,jsonl" default:"" placeholder:"FORMAT" help:"csv or jsonl. Default: the file's name decides; csv if it does not tell."`
	Rejects string `placeholder:"FILE" help:"Keep refused lines in this file, unchanged, so that they can be repaired and fed in again. The reasons are in FILE.reasons."`
}

// targetFlag is a flag that names a part of a single target.
type targetFlag struct{ name, value string }

// check checks that there is either a file or a complete single target.
func (f fileFlags) check(target ...targetFlag) error {
	var names []string
	given := 0
	for _, flag := range target {
		names = append(names, flag.name)
		if flag.value != "" {
			given++
		}
	}
	all := strings.Join(names, " and ")
	switch {
	case f.File != "" && given > 0:
		return usagef("--file: leave out %s, which the file holds", all)
	case f.File != "":
		return nil
	case f.Format != "":
		return usagef("--format: only with --file")
	case f.Rejects != "":
		return usagef("--rejects: only with --file")
	case given < len(target):
		return usagef("want %s, or --file", all)
	}
	return nil
}

func (f fileFlags) readTasks(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	if f.jsonl() {
		return records.TasksJSONL(kind, r)
	}
	return records.TasksCSV(kind, r)
}

// readLocks reads locks with their expiries. A lock without one has the zero time.
func (f fileFlags) readLocks(r io.Reader) iter.Seq2[tasks.Lock, error] {
	if f.jsonl() {
		return records.LocksJSONL(r, nil)
	}
	return records.LocksCSV(r, nil)
}

// readLockIDs reads locks and ignores their expiries, even malformed ones.
func (f fileFlags) readLockIDs(r io.Reader) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		for t, err := range f.readTasks(tasks.KindLockRelease, r) {
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

// inputFile is a file that is being read, and counts how much of it was read.
type inputFile struct {
	io.ReadCloser
	info os.FileInfo // nil: not known
	size int64       // 0: not known
	read atomic.Int64
}

// Read implements io.Reader.
func (f *inputFile) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	f.read.Add(int64(n))
	return n, err
}

// open opens the file, and the files for refused lines.
func (f fileFlags) open(e *env) (*inputFile, *rejects, error) {
	in, err := f.openInput(e.stdin)
	if err != nil {
		return nil, nil, err
	}
	rejects, err := newRejects(f.Rejects, in, e.stderr)
	if err != nil {
		_ = in.Close()
		return nil, nil, err
	}
	return in, rejects, nil
}

func (f fileFlags) openInput(stdin io.Reader) (*inputFile, error) {
	if f.File == "-" {
		in := &inputFile{ReadCloser: io.NopCloser(stdin)}
		if file, ok := stdin.(*os.File); ok {
			in.info, _ = file.Stat()
		}
		return in, nil
	}
	file, err := os.Open(f.File)
	if err != nil {
		return nil, usagef("--file: %w", err)
	}
	in := &inputFile{ReadCloser: file}
	if in.info, err = file.Stat(); err == nil && in.info.Mode().IsRegular() {
		in.size = in.info.Size()
	}
	return in, nil
}

// cancelableReader is a reader that ends with its context. A read from a terminal
// or a pipe that is waiting at that moment cannot be stopped: it is abandoned,
// together with its buffer.
type cancelableReader struct {
	ctx context.Context //nolint:containedctx // Read has no parameter for it
	r   io.Reader
}

// Read implements io.Reader.
func (c cancelableReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text := make([]byte, len(p))
		n, err := c.r.Read(text)
		done <- result{text[:n], err}
	}()
	select {
	case r := <-done:
		return copy(p, r.text), r.err
	case <-c.ctx.Done():
		return 0, c.ctx.Err()
	}
}
