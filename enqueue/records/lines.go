package records

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

const (
	// maxLine is the length up to which a line is parsed. A task takes less than
	// 600 bytes.
	maxLine = 64 << 10
	// maxKept is how much is kept of a longer line. It bounds the memory that
	// reading takes.
	maxKept = 1 << 20

	gzipMagic = "\x1f\x8b"
	// byteOrderMark is what spreadsheets put in front of UTF-8.
	byteOrderMark = "\xef\xbb\xbf"
)

// lineReader splits a file into lines, and decompresses it if it is gzip.
//
// If the file cannot be read to its end, an incomplete last line is dropped: half
// an id could be another id.
type lineReader struct {
	in      *bufio.Reader
	gzipped bool
	long    []byte // the last line that was longer than the buffer of in

	line      int    // the number of the line
	text      []byte // the line without its ending, at most maxKept of it; valid until the next one
	truncated bool   // text is not the whole line
	err       error  // why there is no next line; nil at the end of the file
}

func newLineReader(r io.Reader) *lineReader {
	const size = maxLine + len("\r\n") // a line that does not fit is too long
	l := &lineReader{in: bufio.NewReaderSize(&stickyErrReader{r: r}, size)}
	if startsWith(l.in, gzipMagic) {
		z, err := gzip.NewReader(l.in)
		if err != nil {
			l.err = decompressError(err)
			return l
		}
		l.gzipped, l.in = true, bufio.NewReaderSize(z, size)
	}
	if startsWith(l.in, byteOrderMark) {
		_, _ = l.in.Discard(len(byteOrderMark))
	}
	return l
}

// next goes to the next line that is not blank, and reports whether there is one.
func (l *lineReader) next() bool {
	for l.err == nil {
		l.line++
		text, err := l.in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			text, err = l.readLong(text)
		}
		switch {
		case err == nil:
		case err != io.EOF: //nolint:errorlint // a wrapped EOF is a failure, for example of a connection, and not the end of the file
			l.err = err
			if l.gzipped {
				l.err = decompressError(err)
			}
			return false
		case len(text) == 0:
			return false
		}
		text = trimEnding(text)
		l.truncated = len(text) > maxKept
		l.text = text[:min(len(text), maxKept)]
		if l.truncated || len(bytes.TrimSpace(text)) > 0 {
			return true
		}
	}
	return false
}

// tooLong refuses a line that is not worth parsing.
func (l *lineReader) tooLong() error {
	if len(l.text) > maxLine {
		return fmt.Errorf("is longer than %d bytes", maxLine)
	}
	return nil
}

// readLong returns the line that begins with start. Of a line longer than maxKept
// it returns just enough to show that it is longer.
func (l *lineReader) readLong(start []byte) ([]byte, error) {
	const limit = maxKept + len("\r\n")
	l.long = append(l.long[:0], start...)
	for {
		text, err := l.in.ReadSlice('\n')
		l.long = append(l.long, text[:min(len(text), limit-len(l.long))]...)
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

// startsWith looks ahead, no further than it must: whoever writes into a pipe may wait for
// the answer to a line of one byte. If looking fails, the next read returns the error.
func startsWith(in *bufio.Reader, start string) bool {
	for n := range len(start) {
		if got, err := in.Peek(n + 1); err != nil || got[n] != start[n] {
			return false
		}
	}
	return true
}

func decompressError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("decompress: the file is cut off: %w", err)
	}
	return fmt.Errorf("decompress: %w", err)
}

// stickyErrReader keeps returning its first error, and does not read again. A
// bufio.Reader drops an error that it met while it looked ahead, and would read
// again.
type stickyErrReader struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (s *stickyErrReader) Read(p []byte) (n int, err error) {
	if s.err == nil {
		n, s.err = s.r.Read(p)
	}
	return n, s.err
}
