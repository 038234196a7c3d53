package simulator

import (
	"errors"
	"strconv"
	"time"
)

// option is a key of the text form. get returns "" for a value that need not be
// written. The error of set continues the sentence "… want".
type option struct {
	key string
	set func(f *Fault, value string) error
	get func(f *Fault) string
}

// options lists the keys in the order in which String writes them. Headers, the
// body and the bare words are not among them.
func options() []option {
	return []option{
		word("name", func(f *Fault) *string { return &f.Name }),
		word("call", func(f *Fault) *string { return &f.Match.Call }),
		word("user", func(f *Fault) *string { return &f.Match.User }),
		word("target", func(f *Fault) *string { return &f.Match.Target }),
		number("status", func(f *Fault) *int { return &f.Status }),
		duration("retry-after", func(f *Fault) *time.Duration { return &f.RetryAfter }),
		duration("delay", func(f *Fault) *time.Duration { return &f.Delay }),
		number("times", func(f *Fault) *int { return &f.Times }),
		share("rate", func(f *Fault) *float64 { return &f.Rate }),
		duration("skew", func(f *Fault) *time.Duration { return &f.Skew }),
	}
}

func word(key string, field func(*Fault) *string) option {
	return newOption(key, "a word", field,
		func(s string) (string, bool) { return s, s != "" },
		func(v string) string { return v })
}

func number(key string, field func(*Fault) *int) option {
	return newOption(key, "a number from 1", field,
		func(s string) (int, bool) { n, err := strconv.Atoi(s); return n, err == nil && n > 0 },
		strconv.Itoa)
}

func duration(key string, field func(*Fault) *time.Duration) option {
	return newOption(key, "a time such as 1.5s or 2m", field,
		func(s string) (time.Duration, bool) { d, err := time.ParseDuration(s); return d, err == nil && d != 0 },
		time.Duration.String)
}

func share(key string, field func(*Fault) *float64) option {
	return newOption(key, "a share above 0, at most 1, such as 0.25", field,
		func(s string) (float64, bool) {
			v, err := strconv.ParseFloat(s, 64)
			return v, err == nil && v > 0 && v <= 1
		},
		func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) })
}

func newOption[T comparable](key, want string, field func(*Fault) *T, parse func(string) (T, bool), format func(T) string) option {
	return option{
		key: key,
		set: func(f *Fault, value string) error {
			v, ok := parse(value)
			if !ok {
				return errors.New(want)
			}
			*field(f) = v
			return nil
		},
		get: func(f *Fault) string {
			var zero T
			if v := *field(f); v != zero {
				return format(v)
			}
			return ""
		},
	}
}
