package deadletter

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// topScore is above every score of the index. Redis keeps whole numbers up to here.
const topScore = 1<<53 - 1

// Position is a place in the index: behind the letters that were read, the latest first. The
// zero value is before all of them. It is the same place whatever the filter.
type Position struct {
	score int64 // of the last letter, in µs; 0 for the zero value
	id    string
}

// IsZero reports whether nothing was read yet.
func (p Position) IsZero() bool { return p == Position{} }

// String returns the position as text that can stand in a URL; "" for the zero value.
func (p Position) String() string {
	if p.IsZero() {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.score, 36) + "." + p.id))
}

// ParsePosition reads what String has returned.
func ParsePosition(text string) (Position, error) {
	if text == "" {
		return Position{}, nil
	}
	data, err := base64.RawURLEncoding.DecodeString(text)
	score, id, ok := strings.Cut(string(data), ".")
	n, numberErr := strconv.ParseInt(score, 36, 64)
	if err = cmp.Or(err, numberErr); err != nil || !ok || n <= 0 || n > topScore {
		return Position{}, fmt.Errorf("%.80q is no position among the dead letters; want the text that came with the page before, or none for the first page", text)
	}
	return Position{n, id}, nil
}

// MarshalText implements encoding.TextMarshaler.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Position) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePosition(string(text))
	return err
}
