package enqueue

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

const (
	// maxLine bounds a line that can be a task. A task's is below 600 bytes.
	maxLine = 64 << 10
	// maxKept bounds what is kept of a line that cannot, and with it the memory
	// that a file takes.
	maxKept = 1 << 20

	gzipMagic = "\x1f\x8b"
	// byteOrderMark is what spreadsheets put in front of UTF-8.
	byteOrderMark = "\xef\xbb\xbf"
)

// lineReader takes a file apart, for all formats alike, and decompresses one
// that is gzip.
//
// What was read of a line when the reader failed is dropped: half an id could
// be another one.
type lineReader struct {
	in   *bufio.Reader
	long []byte // of the last line that was longer than the buffer of in

	line int    // the number of the line
	text []byte // the line without its ending, at most maxKept of it; valid until the next one
	cut  bool   // text is not the whole line
	err  error  // why there is no next line; nil at the end of the file
}

func newLineReader(r io.Reader) *lineReader {
	const size = maxLine + len("\r\n") // a longer line is found by its not fitting
	in := bufio.NewReaderSize(&onceFailed{r: r}, size)
	if startsWith(in, gzipMagic) {
		in = bufio.NewReaderSize(gunzip(in), size)
	}
	if startsWith(in, byteOrderMark) {
		_, _ = in.Discard(len(byteOrderMark))
	}
	return &lineReader{in: in}
}

// next goes to the next line that is not blank, and reports whether there is
// one.
func (l *lineReader) next() bool {
	for {
		l.line++
		text, err := l.in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			text, err = l.readLong(text)
		}
		atEnd := err == io.EOF //nolint:errorlint // wrapped, it is somebody's failure and not the end of the file
		if err != nil && !(atEnd && len(text) > 0) {
			if !atEnd {
				l.err = err
			}
			return false
		}
		text = trimEnding(text)
		l.cut = len(text) > maxKept
		l.text = text[:min(len(text), maxKept)]
		if l.cut || len(bytes.TrimSpace(text)) > 0 {
			return true
		}
	}
}

// readLong returns the line that begins with start, at most so much of it that
// it can be seen to be longer than maxKept.
func (l *lineReader) readLong(start []byte) ([]byte, error) {
	const most = maxKept + len("\r\n")
	l.long = append(l.long[:0], start...)
	for {
		text, err := l.in.ReadSlice('\n')
		l.long = append(l.long, text[:min(len(text), most-len(l.long))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return l.long, err
		}
	}
}

func trimEnding(line []byte) []byte {
	line, ended := bytes.CutSuffix(line, []byte("\n"))
	if ended {
		line = bytes.TrimSuffix(line, []byte("\r"))
	}
	return line
}

// startsWith looks ahead. A failure is left to the next read.
func startsWith(in *bufio.Reader, start string) bool {
	got, _ := in.Peek(len(start))
	return string(got) == start
}

// gunzip decompresses one member after the other.
func gunzip(in *bufio.Reader) io.Reader {
	z, err := gzip.NewReader(in)
	if err != nil {
		return &onceFailed{err: decompressError(err)}
	}
	return gzipReader{z}
}

// gzipReader says of an error where it comes from.
type gzipReader struct{ z *gzip.Reader }

// Read implements io.Reader.
func (g gzipReader) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	return n, decompressError(err)
}

func decompressError(err error) error {
	switch {
	case err == nil || err == io.EOF: //nolint:errorlint // see lineReader.next
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("decompress: the file is cut off: %w", err)
	default:
		return fmt.Errorf("decompress: %w", err)
	}
}

// onceFailed is a reader that is not asked again after an error. A bufio.Reader
// would: it forgets what it met while it looked ahead.
type onceFailed struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (o *onceFailed) Read(p []byte) (n int, err error) {
	if o.err == nil {
		n, o.err = o.r.Read(p)
	}
	return n, o.err
}
