package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/kooworker/kooworker/enqueue/records"
)

// rejects handles refused lines: it keeps all of them in the file, if there is one,
// and shows the first few on the terminal.
type rejects struct {
	stderr      io.Writer
	count       int
	file        *os.File // nil: refused lines are not kept
	lines       *records.Rejects
	reasonsFile *os.File // nil: the reasons are not kept
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
	if existing, err := os.Stat(path); err == nil && in.info != nil && os.SameFile(existing, in.info) {
		return nil, usagef("--rejects: %s is the file that is read; want another one", path)
	}
	var err error
	if r.file, err = os.Create(path); err != nil { //nolint:gosec // the operator chooses the path
		return nil, usagef("--rejects: %w", err)
	}
	r.lines, r.reasons = records.NewRejects(r.file), bufio.NewWriter(io.Discard)
	info, err := r.file.Stat()
	if err != nil {
		_ = r.file.Close()
		return nil, usagef("--rejects: %w", err)
	}
	if !info.Mode().IsRegular() { // beside a pipe or a device no file of ours belongs
		return r, nil
	}
	if r.reasonsFile, err = os.Create(path + ".reasons"); err != nil { //nolint:gosec // beside the operator's path
		_ = r.file.Close()
		return nil, usagef("--rejects: %w", err)
	}
	r.reasons.Reset(r.reasonsFile)
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
	line, err := json.Marshal(map[string]any{"line": bad.Line, "error": bad.Err.Error()})
	if err != nil {
		return err
	}
	_, err = r.reasons.Write(append(line, '\n'))
	return errors.Join(err, r.lines.Add(bad))
}

// close closes the files, and returns the first error of any write.
func (r *rejects) close() error {
	if r.file == nil {
		return nil
	}
	failed := cmp.Or(r.failed, r.lines.Flush(), r.file.Close(), r.reasons.Flush())
	if r.reasonsFile != nil {
		failed = cmp.Or(failed, r.reasonsFile.Close())
	}
	return failed
}
