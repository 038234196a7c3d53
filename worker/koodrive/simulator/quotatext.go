package simulator

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var _ fmt.Stringer = Quota{}

// ParseQuota reads a quota from text, as the command line's --quota takes it:
//
//	bucket:200/s,burst=20
//	fixed:3000/m,tell=text+debug
//	sliding:10/10s,per-call,retry-after=auto
//	bucket:200/s,foreign=60,at=60s:x0.5,at=2m:none
//	fixed:0/s,user=bad-*,retry-after=30s
//
// The first field is the shape, the limit and the period: s, m, h or d for a second,
// a minute, an hour or a day, or several of them, such as 10s. The fields that follow
// are separated by commas and may come in any order:
//
//	burst=NUMBER           how many calls a full bucket holds; without it, the limit
//	call=CALL              the quota concerns one kind of call, such as unbind
//	user=PATTERN           … or certain users; * ? [a-z] as in path.Match
//	target=PATTERN         … or certain devices or locks
//	per-call               each kind of call has a quota of its own
//	per-user               each user has a quota of its own
//	foreign=NUMBER         calls that strangers make in a period, of the same quota
//	at=TIME:LIMIT          the limit changes at a time since the start, to a NUMBER,
//	                       to a multiple such as x0.5, or to none; may be repeated
//	policy=NAME            what the gateway names: api, user, app, ip or api-allenv
//	tell=WHAT              what callers are told, joined by +: text, debug, ratelimit,
//	                       x-ratelimit or x-ratelimit-epoch; without it, nothing
//	retry-after=TIME       the Retry-After header of a refusal, such as 30s, or auto
//	retry-after-date=TIME  the same, as an HTTP date
//	name=WORD              the name in the statistics
//
// Values are quoted as in ParseFault.
func ParseQuota(text string) (Quota, error) {
	q, err := parseQuotaFields(text)
	if err == nil {
		err = q.validate()
	}
	if err != nil {
		return Quota{}, fmt.Errorf("quota %q: %w", text, err)
	}
	return q, nil
}

const (
	flagPerCall = "per-call"
	flagPerUser = "per-user"

	changeKey         = "at"
	retryAfterKey     = "retry-after"
	retryAfterDateKey = "retry-after-date"
	autoWord          = "auto"
	noLimitWord       = "none"
)

func parseQuotaFields(text string) (q Quota, err error) {
	allowance, rest, more := strings.Cut(text, ",")
	if err := setAllowance(&q, strings.TrimSpace(allowance)); err != nil {
		return q, err
	}
	seen := make(map[string]bool)
	for more {
		var f field
		f, rest, more, err = cutField(rest)
		switch {
		case err != nil:
			return q, err
		case seen[f.key] && f.key != changeKey:
			return q, fmt.Errorf("%s is given twice", f.key)
		case f.isWord:
			err = setQuotaWord(&q, f.key)
		default:
			err = setQuotaKey(&q, f.key, f.value)
		}
		if err != nil {
			return q, err
		}
		seen[f.key] = true
	}
	return q, nil
}

// setAllowance reads the first field, such as bucket:200/s.
func setAllowance(q *Quota, text string) error {
	shape, rate, _ := strings.Cut(text, ":")
	limit, period, _ := strings.Cut(rate, "/")
	n, err := strconv.Atoi(limit)
	if err != nil {
		return fmt.Errorf("it begins with %q; want a shape, a limit and a period, such as bucket:200/s", text)
	}
	q.Shape, q.Limit = shape, n
	q.Period, err = parsePeriod(period)
	return err
}

// periodUnits are the units of periods, the longest first: as the text form writes
// them, and as the gateway does.
var periodUnits = []struct {
	short, long string
	length      time.Duration
}{
	{"d", "day", 24 * time.Hour},
	{"h", "hour", time.Hour},
	{"m", "minute", time.Minute},
	{"s", "second", time.Second},
}

func parsePeriod(text string) (time.Duration, error) {
	for _, unit := range periodUnits {
		count, ok := strings.CutSuffix(text, unit.short)
		if !ok {
			continue
		}
		if count == "" {
			return unit.length, nil
		}
		n, err := strconv.Atoi(count)
		if err == nil && n > 0 && n <= int(maxPeriod/unit.length) {
			return time.Duration(n) * unit.length, nil
		}
	}
	return 0, fmt.Errorf("period is %q; want s, m, h or d, or several such as 10s, at most %dd", text, maxPeriod/(24*time.Hour))
}

// splitPeriod returns the period in the longest unit that divides it.
func splitPeriod(period time.Duration) (n int64, short, long string) {
	for _, unit := range periodUnits {
		if period >= unit.length && period%unit.length == 0 {
			return int64(period / unit.length), unit.short, unit.long
		}
	}
	return 0, "", "" // validate lets no such period pass
}

func setQuotaWord(q *Quota, word string) error {
	switch word {
	case flagPerCall:
		q.PerCall = true
	case flagPerUser:
		q.PerUser = true
	case "":
		return errors.New("a field is empty; want key=value")
	default:
		return fmt.Errorf("word %q is not known; want %s, %s or key=value", word, flagPerCall, flagPerUser)
	}
	return nil
}

// setKey sets what key=value says.
func setQuotaKey(q *Quota, key, value string) error {
	switch key {
	case changeKey:
		return addChange(q, value)
	case "tell":
		q.Tell = strings.Split(value, "+")
		return nil
	case retryAfterKey, retryAfterDateKey:
		if q.RetryAfter != 0 {
			return fmt.Errorf("%s and %s exclude each other", retryAfterKey, retryAfterDateKey)
		}
		q.RetryAfterDate = key == retryAfterDateKey
		if value == autoWord {
			q.RetryAfter = RetryAfterAuto
			return nil
		}
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("%s is %q; want a time such as 30s, or %s", key, value, autoWord)
		}
		q.RetryAfter = d
		return nil
	}
	var known []string
	for _, o := range quotaOptions(q) {
		if o.key == key {
			return o.set(value)
		}
		known = append(known, o.key)
	}
	return fmt.Errorf("key %q is not known; want %s, %s, tell, %s or %s", key, strings.Join(known, ", "), changeKey, retryAfterKey, retryAfterDateKey)
}

// quotaOptions lists the keys that set one field each.
func quotaOptions(q *Quota) []option {
	return []option{
		{"burst", &q.Burst},
		{"call", &q.Match.Call},
		{"user", &q.Match.User},
		{"target", &q.Match.Target},
		{"foreign", &q.Foreign},
		{"policy", &q.Policy},
		{"name", &q.Name},
	}
}

// addChange reads a change such as 60s:100, 60s:x0.5 or 60s:none.
func addChange(q *Quota, text string) error {
	at, limit, _ := strings.Cut(text, ":")
	after, err := time.ParseDuration(at)
	if err != nil {
		return fmt.Errorf("%s is %q; want a time and a limit, such as 60s:100, 60s:x0.5 or 60s:none", changeKey, text)
	}
	before := q.Limit
	if n := len(q.Changes); n > 0 {
		before = q.Changes[n-1].Limit
	}
	n, err := parseLimit(limit, before)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", changeKey, text, err)
	}
	q.Changes = append(q.Changes, QuotaChange{After: after, Limit: n})
	return nil
}

// parseLimit reads the limit of a change, which may be a multiple of the one before.
func parseLimit(text string, before int) (int, error) {
	if text == noLimitWord {
		return NoLimit, nil
	}
	if factor, ok := strings.CutPrefix(text, "x"); ok {
		f, err := strconv.ParseFloat(factor, 64)
		switch limit := math.Round(f * float64(before)); {
		case before == NoLimit:
			return 0, fmt.Errorf("there is no limit to multiply; want a number or %s", noLimitWord)
		case err == nil && limit >= 0 && limit <= maxLimit:
			return int(limit), nil
		}
	} else if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		return n, nil
	}
	return 0, fmt.Errorf("limit is %q; want a number from 0 to %d, a multiple such as x0.5, or %s", text, maxLimit, noLimitWord)
}

// String writes the quota as ParseQuota reads it.
func (q Quota) String() string {
	n, unit, _ := splitPeriod(q.Period)
	period := unit
	if n > 1 {
		period = strconv.FormatInt(n, 10) + unit
	}
	fields := []string{fmt.Sprintf("%s:%d/%s", q.Shape, q.Limit, period)}
	for _, o := range quotaOptions(&q) {
		if o.isSet() {
			fields = append(fields, o.String())
		}
	}
	if q.PerCall {
		fields = append(fields, flagPerCall)
	}
	if q.PerUser {
		fields = append(fields, flagPerUser)
	}
	for _, c := range q.Changes {
		limit := noLimitWord
		if c.Limit != NoLimit {
			limit = strconv.Itoa(c.Limit)
		}
		fields = append(fields, fmt.Sprintf("%s=%v:%s", changeKey, c.After, limit))
	}
	if len(q.Tell) > 0 {
		fields = append(fields, "tell="+strings.Join(q.Tell, "+"))
	}
	if q.RetryAfter != 0 {
		key, value := retryAfterKey, q.RetryAfter.String()
		if q.RetryAfterDate {
			key = retryAfterDateKey
		}
		if q.RetryAfter == RetryAfterAuto {
			value = autoWord
		}
		fields = append(fields, key+"="+value)
	}
	return strings.Join(fields, ",")
}
