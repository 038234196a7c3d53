package httpx

import (
	"context"
	"unicode"
	"unicode/utf8"
)

// MaxLine is how many runes OneLine returns at most. ErrorLine returns 500.
const MaxLine = 200

// OneLine makes a text fit for one line of a log: what is not printable becomes a
// space, runs of spaces become one, and the end is cut off.
func OneLine(text string) string { return oneLine(text, MaxLine) }

// ErrorLine makes a text fit to be kept as the error of a task, as OneLine does.
// asynq cannot store a text that is not UTF-8, and would try for ever.
func ErrorLine(text string) string { return oneLine(text, 500) }

func oneLine(text string, most int) string {
	line := make([]rune, 0, min(len(text), most+1))
	space := false
	for i, r := range text {
		if !unicode.IsPrint(r) || r == ' ' {
			space = len(line) > 0
			continue
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				r = '?' // a byte that is not UTF-8
			}
		}
		if space {
			line = append(line, ' ')
			space = false
		}
		line = append(line, r)
		if len(line) > most {
			return string(line[:most-1]) + "…"
		}
	}
	return string(line)
}

// CallerGaveUp is the text about a call whose caller did not wait for its end.
func CallerGaveUp(ctx context.Context) string {
	return "the caller gave up: " + context.Cause(ctx).Error()
}
