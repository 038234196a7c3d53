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
	"github.com/kooworker/kooworker/internal/cancelable"
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
	case f.File == "" && f.Format != "":
		return usagef("--format: only with --file")
	case f.File == "" && f.Rejects != "":
		return usagef("--rejects: only with --file")
	case f.File == "" && given < len(target):
		return usagef("want %s, or --file", all)
	}
	return nil
}

// anyID returns the option for --allow-any-id.
func anyID(allow bool) []records.Option {
	if allow {
		return []records.Option{records.AnyID()}
	}
	return nil
}

func (f fileFlags) readTasks(kind tasks.Kind, r io.Reader, opts ...records.Option) iter.Seq2[tasks.Task, error] {
	if f.jsonl() {
		return records.TasksJSONL(kind, r, opts...)
	}
	return records.TasksCSV(kind, r, opts...)
}

// readLocks reads locks with their expiries. A lock without one has the zero time.
func (f fileFlags) readLocks(r io.Reader, opts ...records.Option) iter.Seq2[tasks.Lock, error] {
	if f.jsonl() {
		return records.LocksJSONL(r, nil, opts...)
	}
	return records.LocksCSV(r, nil, opts...)
}

// readLockIDs reads locks and ignores their expiries, even malformed ones. It accepts any
// ids: they only leave the ledger.
func (f fileFlags) readLockIDs(r io.Reader) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		for t, err := range f.readTasks(tasks.KindLockRelease, r, records.AnyID()) {
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
	in := &inputFile{}
	if f.File == "-" {
		in.ReadCloser = io.NopCloser(e.stdin)
		if stdin, ok := e.stdin.(*os.File); ok {
			in.info, _ = stdin.Stat()
		}
	} else {
		file, err := os.Open(f.File)
		if err != nil {
			return nil, nil, usagef("--file: %w", err)
		}
		in.ReadCloser = file
		if in.info, err = file.Stat(); err == nil && in.info.Mode().IsRegular() {
			in.size = in.info.Size()
		}
	}
	rejects, err := newRejects(f.Rejects, in, e.stderr)
	if err != nil {
		_ = in.Close()
		return nil, nil, err
	}
	return in, rejects, nil
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
	text, err := cancelable.Call(c.ctx, func() ([]byte, error) {
		text := make([]byte, len(p))
		n, err := c.r.Read(text)
		return text[:n], err
	})
	return copy(p, text), err
}

// rejects handles refused lines: it keeps all of them in the file, if there is one,
// and shows the first few on the terminal.
type rejects struct {
	stderr      io.Writer
	count       int
	file        *os.File // nil: refused lines are not kept
	lines       *records.Rejects
	reasonsFile *os.File
	reasons     *bufio.Writer
	failed      error // the first failed write
}

// shownRejects is how many refused lines are shown.
const shownRejects = 10

func newRejects(path string, in *inputFile, stderr io.Writer) (*rejects, error) {
	r := &rejects{stderr: stderr}
	if path == "" {
		return r, nil
	}
	reasons := path + ".reasons"
	if existing, err := os.Stat(path); err == nil {
		if in.info != nil && os.SameFile(existing, in.info) {
			return nil, usagef("--rejects: %s is the file that is read; want another one", path)
		}
		if !existing.Mode().IsRegular() {
			reasons = os.DevNull // beside a pipe or a device no file of ours belongs
		}
	}
	var err error
	if r.file, err = os.Create(path); err != nil { //nolint:gosec // the operator chooses the path
		return nil, usagef("--rejects: %w", err)
	}
	if r.reasonsFile, err = os.Create(reasons); err != nil { //nolint:gosec // beside the operator's path
		_ = r.file.Close()
		return nil, usagef("--rejects: %w", err)
	}
	r.lines, r.reasons = records.NewRejects(r.file), bufio.NewWriter(r.reasonsFile)
	return r, nil
}

// teeRejects passes an input on, and hands refused lines to r as they pass: here
// they are still in their order.
func teeRejects[T any](r *rejects, in iter.Seq2[T, error]) iter.Seq2[T, error] {
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
	switch r.count++; {
	case r.count <= shownRejects:
		fmt.Fprintf(r.stderr, "rejected: %v\n", bad)
	case r.count == shownRejects+1:
		fmt.Fprintln(r.stderr, "rejected: further lines are counted; --rejects keeps them")
	}
	if r.file == nil {
		return nil
	}
	err := json.NewEncoder(r.reasons).Encode(map[string]any{"line": bad.Line, "error": bad.Err.Error()})
	return errors.Join(err, r.lines.Add(bad))
}

// close closes the files, and returns the first error of any write.
func (r *rejects) close() error {
	if r.file == nil {
		return nil
	}
	return cmp.Or(r.failed, r.lines.Flush(), r.file.Close(), r.reasons.Flush(), r.reasonsFile.Close())
}
