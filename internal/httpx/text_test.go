package httpx

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOneLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                               "",
		" a\r\n\tb\x00  c ":              "a b c",
		"bro\xffken":                     "bro?ken",
		" a\r\n\t b\x00\x1b[31mc\u202e ": "a b [31mc",
		"caf\xe9":                        "caf?",
		strings.Repeat("ä", 200):         strings.Repeat("ä", 200),
		strings.Repeat("ä", 201):         strings.Repeat("ä", 199) + "…",
	} {
		got := OneLine(text)
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
		if utf8.RuneCountInString(got) > 200 {
			t.Errorf("%q is too long, want %d runes at most", got, MaxLine)
		}
	}
}
