package enqueue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Rejects writes the lines of one file that were refused to another, as they
// were and below the header, and nothing else. Once repaired, that file is read
// by the same function as the first. It is not safe for concurrent use.
type Rejects struct {
	out    *bufio.Writer
	header string
	count  int64
}

// NewRejects writes to w, which the caller closes, after Flush. Without rejected
// lines nothing is written, not even the header.
func NewRejects(w io.Writer) *Rejects { return &Rejects{out: bufio.NewWriter(w)} }

// Add writes the next rejected line. Of one that is Cut it writes what there is,
// and that will be refused again.
func (r *Rejects) Add(bad *LineError) error {
	first := r.count == 0
	if !first && bad.Header != r.header {
		return errors.New("a file of rejected lines has one header, and this line was read below another")
	}
	r.header = bad.Header
	r.count++
	lines := []string{bad.Text}
	if first && bad.Header != "" {
		lines = []string{bad.Header, bad.Text}
	}
	if first && (strings.HasPrefix(lines[0], byteOrderMark) || strings.HasPrefix(lines[0], gzipMagic)) {
		// It would be read as something else. Only one mark is passed over.
		lines[0] = byteOrderMark + lines[0]
	}
	for _, line := range lines {
		ending := "\n"
		if strings.HasSuffix(line, "\r") {
			ending = "\r\n" // else its own end would be read as a part of this
		}
		if _, err := r.out.WriteString(line + ending); err != nil {
			return fmt.Errorf("write a rejected line: %w", err)
		}
	}
	return nil
}

// Count returns how many lines were added.
func (r *Rejects) Count() int64 { return r.count }

// Flush writes what is still in memory.
func (r *Rejects) Flush() error {
	if err := r.out.Flush(); err != nil {
		return fmt.Errorf("write a rejected line: %w", err)
	}
	return nil
}
