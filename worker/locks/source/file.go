package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// File is a file that lists locks: JSONL if its name ends in .jsonl or .ndjson,
// else CSV. Package enqueue/records describes both formats; here expires_at is
// required in every line. The file is plain text: one that is compressed with gzip
// is refused, because Lookup reads it again and again.
//
// To change the file, write a new one and rename it: if the file changes while it
// is read, the list ends with an error.
type File struct {
	path string
	opts []records.Option

	mu    sync.Mutex
	index *fileIndex // of the last Lookup; may be nil
}

// OpenFile returns the locks of a file. It checks that the file can be read. With
// records.AnyID it accepts ids that tasks.CheckPlausible refuses.
func OpenFile(path string, opts ...records.Option) (*File, error) {
	f := &File{path: path, opts: opts}
	in, err := f.open()
	if err != nil {
		return nil, err
	}
	return f, in.Close()
}

func (f *File) open() (*os.File, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, fileError(err)
	}
	if err := checkFile(in); err != nil {
		_ = in.Close()
		return nil, err
	}
	return in, nil
}

// gzipMagic is how a gzip file begins (RFC 1952). Neither CSV nor JSONL can begin so.
const gzipMagic = "\x1f\x8b"

// checkFile refuses what cannot be read again and again.
func checkFile(in *os.File) error {
	info, err := in.Stat()
	switch {
	case err != nil:
		return fileError(err)
	case info.IsDir():
		return fileError(&fs.PathError{Op: "read", Path: in.Name(), Err: errors.New("is a folder")})
	case !info.Mode().IsRegular():
		return fileError(&fs.PathError{Op: "read", Path: in.Name(), Err: errors.New("is not a regular file, and locks are looked up again before a release")})
	}
	start := make([]byte, len(gzipMagic))
	n, err := in.ReadAt(start, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF): // the file may be shorter
		return fileError(err)
	case string(start[:n]) == gzipMagic:
		return &Error{
			message: "the locks' file: " + in.Name() + " is compressed with gzip; want plain text",
			hint:    "unpack it (gunzip): locks are looked up in it again before each release",
		}
	}
	return nil
}

func fileError(err error) error {
	hint := "check that the file exists and that the worker's user may read it"
	if _, header := errors.AsType[*records.HeaderError](err); header {
		hint = "the first line of CSV names the columns: user_id,lock_id,expires_at"
	}
	return &Error{message: "the locks' file: " + err.Error(), hint: hint, cause: err}
}

// Kind implements List.
func (*File) Kind() tasks.SourceKind { return tasks.SourceFile }

// Locks implements List.
func (f *File) Locks(ctx context.Context) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		in, err := f.open()
		if err != nil {
			yield(tasks.Lock{}, err)
			return
		}
		defer func() { _ = in.Close() }()
		f.read(ctx, in, yield)
	}
}

// read yields the locks of the opened file.
func (f *File) read(ctx context.Context, in *os.File, yield func(tasks.Lock, error) bool) {
	before, err := in.Stat()
	if err != nil {
		yield(tasks.Lock{}, fileError(err))
		return
	}
	for l, err := range parse(f.path, in, f.opts...) {
		if ctx.Err() != nil {
			yield(tasks.Lock{}, &Error{message: "the locks' file: " + context.Cause(ctx).Error(), cause: ctx.Err()})
			return
		}
		if !yield(l, err) || err != nil && asRowError(err) == nil {
			return
		}
	}
	after, err := in.Stat()
	switch {
	case err != nil:
		yield(tasks.Lock{}, fileError(err))
	case !sameContent(before, after):
		yield(tasks.Lock{}, &Error{
			message: "the locks' file: " + f.path + " changed while it was read",
			hint:    "write a new file and rename it to this name, so that it is always whole",
		})
	}
}

// parse yields the locks of a file's content. Errors are as in List.Locks.
func parse(path string, r io.Reader, opts ...records.Option) iter.Seq2[tasks.Lock, error] {
	lines := records.LocksCSV
	if strings.HasSuffix(path, ".jsonl") || strings.HasSuffix(path, ".ndjson") {
		lines = records.LocksJSONL
	}
	return func(yield func(tasks.Lock, error) bool) {
		for l, err := range lines(r, checkExpiry, opts...) {
			if bad, ok := errors.AsType[*records.LineError](err); ok {
				err = &RowError{Row: bad.Line, UserID: bad.Lock.UserID, LockID: bad.Lock.LockID, Err: bad.Err, line: true}
			} else if err != nil {
				err = fileError(err)
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// Lookup implements List. It finds the locks in an index in memory, which takes
// about 150 bytes a lock. It reads the whole file again if that has changed since
// the last Lookup, or had changed within the two seconds before.
func (f *File) Lookup(ctx context.Context, ids []tasks.LockID) ([]LockState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	in, err := f.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return nil, fileError(err)
	}
	if !f.index.isCurrent(info) {
		f.index = nil
		if f.index, err = f.readIndex(ctx, in, info); err != nil {
			return nil, err
		}
	}
	return f.index.locks.of(ids), nil
}

// Close implements List. A File holds nothing open.
func (*File) Close() error { return nil }

// fileIndex holds what the file said when it had this info.
type fileIndex struct {
	info  fs.FileInfo
	racy  bool // the file may have changed since without a new modification time
	locks lockStates
}

// raceWindow is longer than the resolution of modification times in any file
// system. A change within one step of the resolution does not show.
const raceWindow = 2 * time.Second

func (f *File) readIndex(ctx context.Context, in *os.File, info fs.FileInfo) (*fileIndex, error) {
	x := &fileIndex{
		info:  info,
		racy:  time.Since(info.ModTime()) < raceWindow,
		locks: make(lockStates),
	}
	var failed error
	f.read(ctx, in, func(l tasks.Lock, err error) bool {
		row := asRowError(err)
		if err != nil && row == nil {
			failed = err
			return false
		}
		x.locks.add(l, row)
		return true
	})
	return x, failed
}

func (x *fileIndex) isCurrent(info fs.FileInfo) bool {
	return x != nil && !x.racy && os.SameFile(x.info, info) && sameContent(x.info, info)
}

func sameContent(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
