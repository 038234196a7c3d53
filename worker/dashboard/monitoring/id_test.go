package monitoring

import (
	"net/url"
	"path"
	"strings"
	"testing"

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
