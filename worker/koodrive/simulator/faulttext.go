package simulator

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

var _ fmt.Stringer = Fault{}

// ParseFault reads a fault from text, as the command line's --fault takes it:
//
//	forbidden,call=unbind,target=forbidden-*
//	throttled,retry-after=1s,times=1,per-target
//	slow,delay=2s,rate=0.1
//	reset-after,user=u-7
//	skew=-20m
//	status=503,header.X-Cache=MISS,body={"code":13000201,"msg":"busy, come back"}
//
// Fields are separated by commas and may come in any order. A word without = is
// the kind (see FaultKinds) or the flag per-target. The others are key=value:
//
//	name=WORD          the name in the statistics
//	call=CALL          unbind, release, list, bind, lock, renew or other
//	user=PATTERN       the user's id; * ? [a-z] as in path.Match
//	target=PATTERN     the id of the device or lock
//	status=NUMBER      a fixed answer
//	header.NAME=VALUE  a header of the answer; may be repeated
//	retry-after=TIME   the Retry-After header, such as 2s
//	delay=TIME         the time before the answer
//	times=NUMBER       how often; without it, without limit
//	rate=SHARE         above 0 to 1; without it always
//	skew=TIME          how far the server's clock is ahead, or behind if negative
//	body=TEXT          the body of a fixed answer
//
// A value that holds a comma, or spaces at its ends, is written as a Go string
// in double quotes. body comes last and takes all of the text that follows
// unchanged, so that JSON needs no quoting.
func ParseFault(text string) (Fault, error) {
	f, err := parseFields(text)
	if err == nil {
		err = f.validate()
	}
	if err != nil {
		return Fault{}, fmt.Errorf("fault %q: %w", text, err)
	}
	return f, nil
}

const (
	flagPerTarget = "per-target"
	headerPrefix  = "header."
	bodyPrefix    = "body="
)

// parseFields reads the fields one by one and does not check the fault as a whole.
func parseFields(text string) (f Fault, err error) {
	for rest, more := text, true; more; {
		rest = strings.TrimLeftFunc(rest, unicode.IsSpace)
		if body, ok := strings.CutPrefix(rest, bodyPrefix); ok {
			f.Body = body
			return f, nil
		}
		var next field
		next, rest, more, err = cutField(rest)
		switch {
		case err != nil:
		case next.isWord:
			err = setWord(&f, next.key)
		default:
			err = setKey(&f, next.key, next.value)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// field is key=value, or a word, which is its key.
type field struct {
	key, value string
	isWord     bool
}

// cutField cuts the first field off. More tells whether a comma followed it, after
// which another field must come.
func cutField(text string) (f field, rest string, more bool, err error) {
	end := strings.IndexAny(text, "=,")
	if end < 0 || text[end] == ',' {
		word, rest, more := strings.Cut(text, ",")
		return field{key: strings.TrimSpace(word), isWord: true}, rest, more, nil
	}
	f.key = strings.TrimSpace(text[:end])
	f.value, rest, more, err = cutValue(f.key, text[end+1:])
	return f, rest, more, err
}

// cutValue cuts the value of a key off. More is that of cutField.
func cutValue(key, text string) (value, rest string, more bool, err error) {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	if !strings.HasPrefix(text, `"`) {
		value, rest, more = strings.Cut(text, ",")
		return strings.TrimSpace(value), rest, more, nil
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err == nil {
		value, err = strconv.Unquote(quoted)
	}
	if err != nil {
		return "", "", false, fmt.Errorf("%s has a malformed value in quotes; want a Go string", key)
	}
	rest, more = strings.CutPrefix(strings.TrimLeftFunc(text[len(quoted):], unicode.IsSpace), ",")
	if rest != "" && !more {
		return "", "", false, fmt.Errorf("%s goes on after its value in quotes; want a comma", key)
	}
	return value, rest, more, nil
}

// quote writes a value so that cutValue reads it back.
func quote(value string) string {
	quoted := strconv.Quote(value)
	if quoted == `"`+value+`"` && !strings.Contains(value, ",") && strings.TrimSpace(value) == value {
		return value
	}
	return quoted
}

// setWord sets what a word without = says.
func setWord(f *Fault, word string) error {
	switch {
	case word == "":
		return errors.New("a field is empty; want a kind such as forbidden, or key=value")
	case word == flagPerTarget:
		f.PerTarget = true
	case f.Kind != "":
		return fmt.Errorf("two kinds, %q and %q; want one", f.Kind, word)
	default:
		f.Kind = word // validate says whether it is known
	}
	return nil
}

// setKey sets what key=value says.
func setKey(f *Fault, key, value string) error {
	if name, ok := strings.CutPrefix(key, headerPrefix); ok {
		if f.Header == nil {
			f.Header = make(http.Header)
		}
		f.Header.Add(name, value)
		return nil
	}
	var known []string
	for _, o := range options(f) {
		known = append(known, o.key)
		switch {
		case o.key != key:
		case o.isSet():
			return fmt.Errorf("%s is given twice", key)
		default:
			return o.set(value)
		}
	}
	return fmt.Errorf("key %q is not known; want %s, %sNAME, body, %s or a kind", key, strings.Join(known, ", "), headerPrefix, flagPerTarget)
}

// option is a key of the text form, and a pointer to the field of a fault that it
// sets.
type option struct {
	key   string
	field any // *string, *int, *time.Duration or *float64
}

// options lists the keys in the order in which String writes them. Headers, the
// body and the words without = are not among them.
func options(f *Fault) []option {
	return []option{
		{"name", &f.Name},
		{"call", &f.Match.Call},
		{"user", &f.Match.User},
		{"target", &f.Match.Target},
		{"status", &f.Status},
		{"retry-after", &f.RetryAfter},
		{"delay", &f.Delay},
		{"times", &f.Times},
		{"rate", &f.Rate},
		{"skew", &f.Skew},
	}
}

func (o option) isSet() bool { return !reflect.ValueOf(o.field).Elem().IsZero() }

// String writes the option as key=value.
func (o option) String() string {
	return o.key + "=" + quote(fmt.Sprint(reflect.ValueOf(o.field).Elem()))
}

func (o option) set(value string) error {
	var (
		ok   bool
		want string
	)
	switch field := o.field.(type) {
	case *string:
		*field, ok, want = value, value != "", "a word"
	case *int:
		n, err := strconv.Atoi(value)
		*field, ok, want = n, err == nil && n > 0, "a number from 1"
	case *time.Duration:
		d, err := time.ParseDuration(value)
		*field, ok, want = d, err == nil && d != 0, "a time such as 1.5s or 2m"
	case *float64:
		share, err := strconv.ParseFloat(value, 64)
		*field, ok, want = share, err == nil && share > 0 && share <= 1, "a share above 0, at most 1, such as 0.25"
	}
	if !ok {
		return fmt.Errorf("%s is %q; want %s", o.key, value, want)
	}
	return nil
}

// String writes the fault as ParseFault reads it.
func (f Fault) String() string {
	var fields []string
	if f.Kind != "" {
		fields = append(fields, f.Kind)
	}
	for _, o := range options(&f) {
		if o.isSet() {
			fields = append(fields, o.String())
		}
	}
	if f.PerTarget {
		fields = append(fields, flagPerTarget)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Header)) {
		for _, value := range f.Header[name] {
			fields = append(fields, headerPrefix+name+"="+quote(value))
		}
	}
	if f.Body != "" {
		fields = append(fields, bodyPrefix+f.Body)
	}
	return strings.Join(fields, ",")
}
