package humanize

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Visible makes a text from a stranger harmless to look at: a character that has no shape of
// its own (control characters, marks that turn the direction of what follows, those of no
// width) becomes "[U+202E]", and a byte that is not UTF-8 "[0xFF]". The characters of keep
// stay, and marks that combine with the character before: they belong to many languages.
func Visible(text, keep string) string {
	isVisible := func(r rune) bool { return unicode.IsPrint(r) || strings.ContainsRune(keep, r) }
	if utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !isVisible(r) }) < 0 {
		return text
	}
	var out strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&out, "[0x%02X]", text[i])
		case isVisible(r):
			out.WriteRune(r)
		default:
			fmt.Fprintf(&out, "[U+%04X]", r)
		}
	}
	return out.String()
}

// Cut returns the first characters of a text that is longer than most, and says how many more
// there are.
func Cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	shown := 0
	for i := range text {
		if shown == most {
			return fmt.Sprintf("%s… [%d more characters]", text[:i], utf8.RuneCountInString(text[i:]))
		}
		shown++
	}
	return text
}
