package terminal

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// isDumb reports whether the terminal cannot move its cursor.
func isDumb() bool { return os.Getenv("TERM") == "dumb" }

// HasColors reports whether a stream is a terminal that shows colors, and whose user wants
// them: see https://no-color.org.
func HasColors(stream any) bool {
	return IsTerminal(stream) && !isDumb() && os.Getenv("NO_COLOR") == ""
}

// EraseInterrupt erases the ^C that a terminal shows when Ctrl-C is pressed, so that what is
// written next begins a line. It does nothing if the stream is no terminal.
func EraseInterrupt(stream *os.File) {
	switch {
	case !IsTerminal(stream):
	case isDumb():
		fmt.Fprintln(stream)
	default:
		// The kernel sends the signal first, and shows ^C a moment later.
		<-time.After(10 * time.Millisecond)
		fmt.Fprint(stream, "\r\x1b[K")
	}
}

// Redraw returns what draws a screen over the one before, without a flicker: it begins in the
// upper left corner, and erases what is left of each line and below the last one.
func Redraw(screen string) string {
	if isDumb() {
		return screen
	}
	return "\x1b[H" + strings.ReplaceAll(screen, "\n", "\x1b[K\n") + "\x1b[J"
}
