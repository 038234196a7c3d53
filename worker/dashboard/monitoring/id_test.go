package monitoring

import (
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// Every ID comes back as it was, and its encoded form is one segment of a URL's path.
func TestEncodeID_ComesBack(t *testing.T) {
	t.Parallel()
	ids := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{1,40}`), rapid.SampledFrom([]string{".", "..", "...", "~", "~2f~", "~~2f~~", "~2f", "%41", "$&", "a\u202eb", "\u200b"}))
	rapid.Check(t, func(t *rapid.T) {
		id := strings.ToValidUTF8(ids.Draw(t, "id"), "?")
		id = strings.ToValidUTF8(id[:min(len(id), maxID)], "")
		text := encodeID(id)
		if back := decodeID(text); back != id {
			t.Fatalf("%q is encoded as %q, which is read as %q", id, text, back)
		}
		if strings.ContainsAny(text, " /?#%\\$\u202e\u200b\x00\n") {
			t.Fatalf("%q is encoded as %q; want none of the characters that are not safe", id, text)
		}
		u, err := url.Parse("/tasks/" + text)
		if err != nil || u.Path != "/tasks/"+text || id != "" && path.Clean(u.Path) != u.Path {
			t.Fatalf("%q is encoded as %q, which is the path %q, %v", id, text, u, err)
		}
	})
}

func TestEncodeID_KeepsPlainOnes(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"device:unbind:u-1:1775406005920779393", "lock:release:u@x:78e41c7e-db02@102", "batch-1:0a1b", `device:unbind:<script>"'&:d`, "device:unbind:用户:d"} {
		if text := encodeID(id); text != id {
			t.Errorf("%q is shown as %q; want it as it is", id, text)
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
		out := visible(text, most)
		if bad := strings.IndexFunc(strings.ReplaceAll(out, "\r\n", ""), isUnseen); bad >= 0 || !utf8.ValidString(out) {
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
