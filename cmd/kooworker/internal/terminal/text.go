package terminal

import (
	"fmt"
	"math"
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

// Bytes writes a size, such as 1.5 GB.
func Bytes(n int64) string {
	const kilo = 1000
	value, units := float64(n), []string{"B", "kB", "MB", "GB", "TB"}
	for value >= kilo && len(units) > 1 {
		value, units = value/kilo, units[1:]
	}
	if value < 10 && units[0] != "B" {
		return fmt.Sprintf("%.1f %s", value, units[0])
	}
	return fmt.Sprintf("%.0f %s", value, units[0])
}

// Duration writes a duration without zero units at its end: 10m, not 10m0s.
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// HumanDuration rounds to the unit that people would use.
func HumanDuration(seconds float64) string {
	s := int(math.Round(seconds))
	switch {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min", s/60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
}

// Count writes a number with its noun, such as 1 line or 2 lines. The noun is given in the
// plural, which ends with an s.
func Count[N int | int64](n N, nouns string) string {
	return fmt.Sprintf("%d %s", n, Plural(n, strings.TrimSuffix(nouns, "s"), nouns))
}

// Plural returns the word that goes with a number: one for 1, many for all others.
func Plural[N int | int64](n N, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// PerSecond writes a rate, such as 200/s.
func PerSecond(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f/s", rate)
	}
	return fmt.Sprintf("%.0f/s", rate)
}
