package koodrive

import (
	"net/http"
	"slices"
	"time"

	"github.com/dunglas/httpsfv"
)

// The headers of the IETF's draft on rate limits (draft-ietf-httpapi-ratelimit-headers)
// are structured fields (RFC 9651). They have changed from draft to draft:
//
//	since 8  RateLimit-Policy: "x";q=100;w=60   RateLimit: "x";r=50;t=30
//	7        RateLimit-Policy: 100;w=60         RateLimit: limit=100, remaining=50, reset=30
//	to 6     RateLimit-Limit: 100, 100;w=60     RateLimit-Remaining: 50   RateLimit-Reset: 30
//	before   X-RateLimit-Limit: 100             X-RateLimit-Remaining: 50   X-RateLimit-Reset: 30
//
// A policy is a limit, and a state is what is left of one. The last form names no
// window. A client cannot tell it from the time that is left, since nobody says when the
// window began. So without a window from elsewhere, the number of calls is ignored.

// older lists the three headers of each of the older forms.
var older = [...]struct{ limit, remaining, reset string }{
	{"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset"},
	{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
}

// policies returns the limits that RateLimit headers name, and the names of those that
// do not count calls, but bytes for instance.
func policies(header http.Header) (limits []namedLimit, others []string) {
	for _, name := range [...]string{"Ratelimit-Policy", older[0].limit, older[1].limit} {
		for _, item := range items(header[name]) {
			if unit, ok := item.Params.Get("qu"); ok && nameOf(unit) != "requests" {
				others = append(others, nameOf(item.Value))
				continue
			}
			calls, isNumber := item.Value.(int64)
			if !isNumber {
				calls = param(item, "q")
			}
			if l, ok := newLimit(calls, param(item, "w")); ok {
				limits = append(limits, namedLimit{nameOf(item.Value), l})
			}
		}
	}
	return limits, others
}

// states returns what RateLimit headers say is left, but for the limits that do not count
// calls. Calls is the limit that a state without a name belongs to, or 0. Window is 0.
func states(header http.Header, others []string) (all []namedLimit) {
	add := func(name string, calls, remaining, reset int64) {
		s := Limit{Reset: resetIn(header, reset)}.withRemaining(remaining)
		if calls > 0 && calls <= maxLimitCalls {
			s.Calls = int(calls)
		}
		all = append(all, namedLimit{name, s})
	}
	if list := items(header["Ratelimit"]); list != nil {
		for _, item := range list {
			if name := nameOf(item.Value); !slices.Contains(others, name) {
				add(name, 0, param(item, "r"), param(item, "t"))
			}
		}
	} else if d := dictionary(header["Ratelimit"]); d != nil {
		add("", member(d, "limit"), member(d, "remaining"), member(d, "reset"))
	}
	for _, p := range older {
		// Several numbers come from several servers on the way: it is not known which
		// belong together. Of several limits the first is in force, and the others are
		// policies.
		if remaining := items(header[p.remaining]); len(remaining) == 1 {
			limit, reset := items(header[p.limit]), items(header[p.reset])
			add("", first(limit), first(remaining), first(reset))
		}
	}
	return all
}

// addTo adds a state to the limits with its name, or with its number of calls. It
// reports whether it has found one. If it has found limits that differ, it does not know
// which of them is meant, and changes none.
func (s namedLimit) addTo(limits []namedLimit) bool {
	var found []*Limit
	for i := range limits {
		l := &limits[i]
		if s.name != "" && l.name == s.name || s.Calls > 0 && l.Calls == s.Calls {
			found = append(found, &l.Limit)
		}
	}
	for _, l := range found {
		if l.Calls != found[0].Calls || l.Window != found[0].Window {
			return false
		}
	}
	for _, l := range found {
		switch {
		case s.HasRemaining && (!l.HasRemaining || s.Remaining < l.Remaining):
			l.Remaining, l.HasRemaining, l.Reset = s.Remaining, true, s.Reset
		case l.Reset == 0:
			l.Reset = s.Reset
		}
		l.Reset = min(l.Reset, l.Window)
	}
	return len(found) > 0
}

// resetIn returns the time until a reset, which is a number of seconds, or a Unix time
// in seconds or milliseconds. The three differ in size. A Unix time is compared with
// the server's own clock. It returns 0 if the number makes no sense.
func resetIn(header http.Header, n int64) time.Duration {
	const longest = int64(maxLimitWindow / time.Second)
	var at time.Time
	switch {
	case n >= 0 && n <= longest:
		return time.Duration(n) * time.Second
	case n >= 1e9 && n < 1e11:
		at = time.Unix(n, 0)
	case n >= 1e12 && n < 1e14:
		at = time.UnixMilli(n)
	default:
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	if in := at.Sub(now); in > 0 && in <= maxLimitWindow {
		return in
	}
	return 0
}

// items returns the items of a list, or nil if the header is none.
func items(values []string) (list []httpsfv.Item) {
	if len(values) == 0 || size(values) > maxLimitText {
		return nil
	}
	members, err := httpsfv.UnmarshalList(values)
	if err != nil {
		return nil
	}
	for _, m := range members {
		if item, ok := m.(httpsfv.Item); ok {
			list = append(list, item)
		}
	}
	return list
}

// dictionary returns a dictionary, or nil if the header is none.
func dictionary(values []string) *httpsfv.Dictionary {
	if len(values) == 0 || size(values) > maxLimitText {
		return nil
	}
	d, err := httpsfv.UnmarshalDictionary(values)
	if err != nil {
		return nil
	}
	return d
}

// noNumber stands for a number that is absent or no integer. No number here is negative.
const noNumber = -1

func number(value any) int64 {
	if n, ok := value.(int64); ok {
		return n
	}
	return noNumber
}

// first returns the value of the first item.
func first(list []httpsfv.Item) int64 {
	if len(list) == 0 {
		return noNumber
	}
	return number(list[0].Value)
}

// param returns a parameter of an item.
func param(item httpsfv.Item, name string) int64 {
	value, _ := item.Params.Get(name)
	return number(value)
}

// member returns a member of a dictionary.
func member(d *httpsfv.Dictionary, name string) int64 {
	m, _ := d.Get(name)
	item, _ := m.(httpsfv.Item)
	return number(item.Value)
}

// nameOf returns a value that is a string or a token, or "".
func nameOf(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case httpsfv.Token:
		return string(v)
	default:
		return ""
	}
}
