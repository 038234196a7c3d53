package simulator

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// parseFault reads the fields of the text form. It does not check whether they fit
// together.
func parseFault(text string) (Fault, error) {
	var f Fault
	for rest, more := text, true; more; {
		rest = strings.TrimLeftFunc(rest, unicode.IsSpace)
		if body, ok := strings.CutPrefix(rest, bodyPrefix); ok {
			f.Body = body
			break
		}
		var (
			next field
			err  error
		)
		if next, rest, more, err = cutField(rest); err != nil {
			return Fault{}, err
		}
		if err := apply(&f, next); err != nil {
			return Fault{}, err
		}
	}
	return f, nil
}

// field is key=value, or a bare word, which is then the key.
type field struct {
	key, value string
	bare       bool
}

// cutField cuts the first field off. more says that a comma followed it, and
// another field must follow the comma.
func cutField(text string) (f field, rest string, more bool, err error) {
	end := strings.IndexAny(text, "=,")
	if end < 0 || text[end] == ',' {
		f.key, rest, more = strings.Cut(text, ",")
		f.key, f.bare = strings.TrimSpace(f.key), true
		if f.key == "" {
			err = errors.New("a field is empty; want a kind such as forbidden, or key=value")
		}
		return f, rest, more, err
	}
	f.key = strings.TrimSpace(text[:end])
	text = strings.TrimLeftFunc(text[end+1:], unicode.IsSpace)
	if !strings.HasPrefix(text, `"`) {
		f.value, rest, more = strings.Cut(text, ",")
		f.value = strings.TrimSpace(f.value)
		return f, rest, more, nil
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err == nil {
		f.value, err = strconv.Unquote(quoted)
	}
	if err != nil {
		return field{}, "", false, fmt.Errorf("%s has a malformed value in quotes; want a Go string", f.key)
	}
	text = strings.TrimLeftFunc(text[len(quoted):], unicode.IsSpace)
	rest, more = strings.CutPrefix(text, ",")
	if rest != "" && !more {
		return field{}, "", false, fmt.Errorf("%s goes on after its value in quotes; want a comma", f.key)
	}
	return f, rest, more, nil
}

// quote writes a value so that cutField reads it back.
func quote(value string) string {
	quoted := strconv.Quote(value)
	if quoted == `"`+value+`"` && !strings.Contains(value, ",") && strings.TrimSpace(value) == value {
		return value
	}
	return quoted
}
