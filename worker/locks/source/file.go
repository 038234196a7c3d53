package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Format is how a file is written.
type Format string

// The formats.
const (
	// CSV has a header with user_id, lock_id and expires_at in any order. Other
	// columns are passed over, and so are blank lines. A record is a line: a
	// field in quotes may hold commas, but no line break.
	CSV Format = "csv"
	// JSONL has one JSON object a line, with the members that are columns in CSV.
	JSONL Format = "jsonl"
)

// File is a file of locks. Its times are RFC 3339. It is plain text: one that is
// compressed with gzip is refused.
//
// Whoever writes it should write a new file and rename it: a file that changes
// while it is read ends with an error.
type File struct {
	path   string
	format Format
	now    func() time.Time

	mu    sync.Mutex
	index *fileIndex // of the last Look; may be nil
}

// OpenFile returns the locks of a file. Without a format the file's name tells:
// .jsonl and .ndjson are JSONL, and anything else is CSV.
func OpenFile(path string, format Format) (*File, error) {
	if format == "" {
		format = CSV
		if strings.HasSuffix(path, ".jsonl") || strings.HasSuffix(path, ".ndjson") {
			format = JSONL
		}
	}
	if format != CSV && format != JSONL {
		return nil, fmt.Errorf("unknown format %+.40q; want %s or %s", format, CSV, JSONL)
	}
	f := &File{path: path, format: format, now: time.Now}
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
	info, err := in.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &fs.PathError{Op: "read", Path: f.path, Err: errors.New("is a folder")}
	case !info.Mode().IsRegular(): // it could be read only once
		err = &fs.PathError{Op: "read", Path: f.path, Err: errors.New("is not a regular file, and locks are looked up again before a release")}
	}
	if err != nil {
		_ = in.Close()
		return nil, fileError(err)
	}
	if err := refuseGzip(in); err != nil {
		_ = in.Close()
		return nil, err
	}
	return in, nil
}

// gzipMagic is how RFC 1952 lets a file begin, and neither CSV nor JSONL can.
const gzipMagic = "\x1f\x8b"

func refuseGzip(in *os.File) error {
	start := make([]byte, len(gzipMagic))
	n, err := in.ReadAt(start, 0)
	switch {
	case err != nil && err != io.EOF: // it may be shorter
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
	hint := "look whether the file is there and the worker's user may read it"
	return &Error{message: "the locks' file: " + err.Error(), hint: hint, cause: err}
}

// Kind implements Source.
func (*File) Kind() tasks.Source { return tasks.SourceFile }

// Locks implements Source.
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
	for l, err := range f.parse(in) {
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

func (f *File) parse(r io.Reader) iter.Seq2[tasks.Lock, error] {
	if f.format == JSONL {
		return readJSONL(r)
	}
	return readCSV(r)
}

// Lookup implements Source. It reads the whole file when that has changed since
// the last Lookup, or was changed within the last two seconds, and otherwise finds
// the locks in an index in memory, of about 150 bytes a lock.
func (f *File) Lookup(ctx context.Context, names []tasks.LockID) ([]LockState, error) {
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
	if !f.index.isOf(info) {
		f.index = nil
		if f.index, err = f.readIndex(ctx, in, info); err != nil {
			return nil, err
		}
	}
	sights := make([]LockState, len(names))
	for i, name := range names {
		sights[i] = f.index.locks[name]
	}
	return sights, nil
}

// Close implements Source. It never fails.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = nil
	return nil
}

// fileIndex is what a file said when it looked like info.
type fileIndex struct {
	info  fs.FileInfo
	racy  bool // the file may have changed since, and look the same
	locks map[tasks.LockID]LockState
}

// raceWindow is longer than the steps in which file systems count modification
// times: a change within one step does not show.
const raceWindow = 2 * time.Second

func (f *File) readIndex(ctx context.Context, in *os.File, info fs.FileInfo) (*fileIndex, error) {
	x := &fileIndex{
		info:  info,
		racy:  f.now().Sub(info.ModTime()) < raceWindow,
		locks: make(map[tasks.LockID]LockState),
	}
	var failed error
	f.read(ctx, in, func(l tasks.Lock, err error) bool {
		row := asRowError(err)
		switch {
		case err != nil && row == nil:
			failed = err
			return false
		case row != nil && row.UserID == "": // nobody can ask for it
		case row != nil:
			x.add(tasks.LockID{UserID: row.UserID, LockID: row.LockID}, time.Time{}, row)
		default:
			x.add(tasks.LockID{UserID: l.UserID, LockID: l.LockID}, l.ExpiresAt, nil)
		}
		return true
	})
	return x, failed
}

func (x *fileIndex) add(name tasks.LockID, expiresAt time.Time, bad *RowError) {
	s := x.locks[name]
	s.add(expiresAt, bad)
	x.locks[name] = s
}

func (x *fileIndex) isOf(info fs.FileInfo) bool {
	return x != nil && !x.racy && os.SameFile(x.info, info) && sameContent(x.info, info)
}

func sameContent(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
