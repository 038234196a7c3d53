package monitoring

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kooworker/kooworker/internal/humanize"
)

// maxID is how long an ID is at most that can be used here, in bytes. Ours have up to 300.
const maxID = 1000

// maxText is how many characters of a text are shown.
const maxText = 2000

// visible makes a text from a stranger harmless to look at, in its lines, and cuts it.
func visible(text string, most int) string {
	return humanize.Visible(humanize.Cut(strings.ReplaceAll(text, "\r\n", "\n"), most), "\n\t")
}

// encodeID returns the form of a task's ID that the UI gets, shows, and sends back.
//
// IDs hold the names of users, of which KooDrive allows "a/b?c%41#$&". asynqmon's UI
// puts IDs into URLs as they are, so such a task could not be opened or run; and
// asynqmon's router takes no slash. So each character that means something in a URL,
// in the UI's templates of URLs, or that is not visible becomes its number in
// hexadecimal between two tildes: "a~2f~b". decodeID reads it back. Other IDs stay
// what they are.
//
// An ID that is longer than any of ours is cut, and its digest tells it from others.
// Nothing can be done with it here; the command line can.
func encodeID(id string) string {
	if len(id) > maxID {
		digest := sha256.Sum256([]byte(id))
		return fmt.Sprintf("%s… [of %d bytes, SHA-256 %x…]", encodeRunes(strings.ToValidUTF8(id[:maxID/4], "")), len(id), digest[:4])
	}
	return encodeRunes(id)
}

func encodeRunes(id string) string {
	onlyDots := strings.Trim(id, ".") == "" // a browser resolves "." and ".." in a path
	var out strings.Builder
	for _, r := range id {
		if !unicode.IsPrint(r) || strings.ContainsRune(` /?#%\~$`, r) || onlyDots {
			fmt.Fprintf(&out, "~%x~", r)
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}

var encodedRune = regexp.MustCompile(`~[0-9a-f]{1,6}~`)

// decodeID is the reverse of encodeID.
func decodeID(text string) string {
	return encodedRune.ReplaceAllStringFunc(text, func(s string) string {
		n, err := strconv.ParseUint(strings.Trim(s, "~"), 16, 31)
		if r := rune(n); err == nil && utf8.ValidRune(r) {
			return string(r)
		}
		return s
	})
}

func decodeIDs(texts []string) []string {
	out := make([]string, 0, len(texts))
	for _, text := range texts {
		out = append(out, decodeID(text))
	}
	return out
}
