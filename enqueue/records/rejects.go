package records

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Rejects writes the refused lines of one file to another file: as they were,
// below the header, and nothing else. Once the lines are repaired, the function
// that read the first file reads this one. It is not safe for concurrent use.
type Rejects struct {
	out    *bufio.Writer
	begun  bool // the header was written
	header string
}

// NewRejects writes to w. The caller closes w after Flush. If no line is refused,
// nothing is written, not even the header.
func NewRejects(w io.Writer) *Rejects { return &Rejects{out: bufio.NewWriter(w)} }

// Add writes the next refused line. Of a truncated line it writes what there is,
// which will be refused again.
func (r *Rejects) Add(bad *LineError) error {
	first := !r.begun
	if !first && bad.Header != r.header {
		return errors.New("a file of rejected lines has one header, and this line was read below another")
	}
	r.begun, r.header = true, bad.Header
	lines := []string{bad.Text}
	if first && bad.Header != "" {
		lines = []string{bad.Header, bad.Text}
	}
	if first && (strings.HasPrefix(lines[0], byteOrderMark) || strings.HasPrefix(lines[0], gzipMagic)) {
		// The reader would take the beginning of this line for a byte order mark or
		// for gzip. It skips only one mark, so one more protects the line.
		lines[0] = byteOrderMark + lines[0]
	}
	for _, line := range lines {
		ending := "\n"
		if strings.HasSuffix(line, "\r") {
			ending = "\r\n" // so that the line's own \r is not read as a part of the ending
		}
		if _, err := r.out.WriteString(line + ending); err != nil {
			return fmt.Errorf("write a rejected line: %w", err)
		}
	}
	return nil
}

// Flush writes what is buffered.
func (r *Rejects) Flush() error {
	if err := r.out.Flush(); err != nil {
		return fmt.Errorf("write a rejected line: %w", err)
	}
	return nil
}
