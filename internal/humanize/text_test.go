package humanize_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/kooworker/kooworker/internal/humanize"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                           "",
		"plain":                      "plain",
		"用户 e\u0301":                 "用户 e\u0301",
		"a\u202eb\u200b":             "a[U+202E]b[U+200B]",
		"esc\x1b[31m":                "esc[U+001B][31m",
		"\xff\xfe":                   "[0xFF][0xFE]",
		"\ufffd":                     "\ufffd",
		"one\ntwo\tthree\rfour":      "one\ntwo\tthree[U+000D]four",
		"no-break\u00a0space":        "no-break[U+00A0]space",
		"beyond the BMP: \U000e0001": "beyond the BMP: [U+E0001]",
	} {
		if got := humanize.Visible(text, "\n\t"); got != want {
			t.Errorf("Visible(%q) = %q; want %q", text, got, want)
		}
	}
	if got := humanize.Visible("one\ntwo", ""); got != "one[U+000A]two" {
		t.Errorf("a line break that is not to be kept is shown as %q", got)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "abcd": "abcd", "用户用户": "用户用户", "abcde": "abcd… [1 more characters]", "用户用户用户": "用户用户… [2 more characters]"} {
		if got := humanize.Cut(text, 4); got != want {
			t.Errorf("Cut(%q) = %q; want %q", text, got, want)
		}
	}
}

// What is shown has no character that is not seen, and is not much longer than allowed.
func FuzzVisible(f *testing.F) {
	for _, text := range []string{"", "plain", "a\u202eb\u200bc\x00\x1b[31m\ufeff", "\xff\xfe", "line\r\nline\rline\n\ttab", strings.Repeat("x", 300), strings.Repeat("\u202e", 300), "\ufffd", "\u2028"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const most = 100
		out := humanize.Visible(humanize.Cut(text, most), "\n\t")
		if bad := strings.IndexFunc(out, isUnseen); bad >= 0 || !utf8.ValidString(out) {
			t.Errorf("%q is shown as %q", text, out)
		}
		if n := utf8.RuneCountInString(out); n > most*len("[U+10FFFF]")+40 {
			t.Errorf("%d characters are shown as %d", utf8.RuneCountInString(text), n)
		}
		if n := utf8.RuneCountInString(text); n > most != strings.HasSuffix(out, " more characters]") && !strings.Contains(text, "more characters") {
			t.Errorf("%d characters: %q", n, out)
		}
	})
}

func isUnseen(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u00ad' || r >= '\u200b' && r <= '\u200f' || r >= '\u2028' && r <= '\u202e' ||
		r >= '\u2060' && r <= '\u206f' || r == '\ufeff'
}
