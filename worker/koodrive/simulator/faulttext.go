package simulator

import (
	"encoding"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

var (
	_ fmt.Stringer             = Fault{}
	_ encoding.TextMarshaler   = Fault{}
	_ encoding.TextUnmarshaler = (*Fault)(nil)
)

// ParseFault reads a fault from text, as the command line's --fault takes it:
//
//	forbidden,call=unbind,target=forbidden-*
//	throttled,retry-after=1s,times=1,per-target
//	slow,delay=2s,rate=0.1
//	reset-after,user=u-7
//	skew=-20m
//	status=503,header.X-Cache=MISS,body={"code":13000201,"msg":"busy, come back"}
//
// Fields are separated by commas and may come in any order. A bare word is the
// kind (see FaultKinds) or the flag per-target; everything else is key=value:
//
//	name=WORD          the name in the statistics
//	call=CALL          unbind, release, list, bind, lock, renew or other
//	user=PATTERN       the user's id; * ? [a-z] as in path.Match
//	target=PATTERN     the id of the device or lock
//	status=NUMBER      a literal answer
//	header.NAME=VALUE  a header of the answer; may be repeated
//	retry-after=TIME   the Retry-After header, such as 2s
//	delay=TIME         the time before the answer
//	times=NUMBER       how often; without it for ever
//	rate=SHARE         above 0 to 1; without it always
//	skew=TIME          how far the server's clock is ahead, or behind if negative
//	body=TEXT          the body of a literal answer
//
// A value that holds a comma, or spaces at its ends, is written as a Go string
// in double quotes. body comes last and takes everything that follows as it
// stands, so that JSON needs no quoting.
func ParseFault(text string) (Fault, error) {
	f, err := parseFault(text)
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

// String writes the fault as ParseFault reads it.
func (f Fault) String() string {
	var fields []string
	if f.Kind != "" {
		fields = append(fields, f.Kind)
	}
	for _, o := range options() {
		if value := o.get(&f); value != "" {
			fields = append(fields, o.key+"="+quote(value))
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

// MarshalText implements encoding.TextMarshaler, for JSON.
func (f Fault) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler, for JSON and for flags.
func (f *Fault) UnmarshalText(text []byte) error {
	parsed, err := ParseFault(string(text))
	if err != nil {
		return err
	}
	*f = parsed
	return nil
}

// apply sets what one field of the text form says.
func apply(f *Fault, next field) error {
	switch {
	case next.bare && next.key == flagPerTarget:
		f.PerTarget = true
		return nil
	case next.bare && f.Kind != "":
		return fmt.Errorf("two kinds, %q and %q; want one", f.Kind, next.key)
	case next.bare:
		f.Kind = next.key // known or not is for validate to say
		return nil
	case strings.HasPrefix(next.key, headerPrefix):
		if f.Header == nil {
			f.Header = make(http.Header)
		}
		f.Header.Add(strings.TrimPrefix(next.key, headerPrefix), next.value)
		return nil
	}
	var known []string
	for _, o := range options() {
		known = append(known, o.key)
		if o.key != next.key {
			continue
		}
		if o.get(f) != "" {
			return fmt.Errorf("%s is given twice", o.key)
		}
		if err := o.set(f, next.value); err != nil {
			return fmt.Errorf("%s is %q; want %w", o.key, next.value, err)
		}
		return nil
	}
	return fmt.Errorf("key %q is not known; want %s, %sNAME, body, %s or a kind", next.key, strings.Join(known, ", "), headerPrefix, flagPerTarget)
}
