package enqueue

import (
	"encoding/json"
	"io"
	"iter"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// expiryName is the column, or the member, that says when a lock expires.
const expiryName = "expires_at"

// ReadLocksCSV yields the locks of a CSV file with a header: user_id and lock_id,
// and optionally expires_at, in any order. expires_at is a time as of RFC 3339,
// with its zone: 2026-01-31T08:30:00Z or 2026-01-31T09:30:00.5+01:00. It is
// yielded in UTC. Where the column is missing, or empty in a line, ExpiresAt is
// zero: the file does not say when that lock expires. How far away a time may be
// is not for a file to know.
//
// All else is as in ReadCSV: other columns, blank lines, errors and compression.
func ReadLocksCSV(r io.Reader) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		in := newLineReader(r)
		t, err := readHeader(in, tasks.KindLockRelease, expiryName)
		if err != nil {
			yield(tasks.Lock{}, err)
			return
		}
		eachLine(in, t.header, yield, func(text []byte) (l tasks.Lock, err error) {
			ids, expiry, err := t.values(text)
			if err == nil {
				l, err = newLock(ids)
			}
			if err == nil && expiry != "" {
				l.ExpiresAt, err = parseExpiry(expiry)
			}
			return l, err
		})
	}
}

// ReadLocksJSONL yields the locks of a file with one JSON object a line, which has
// the members that are columns in ReadLocksCSV. Where expires_at is missing,
// ExpiresAt is zero; null and "" are refused. All else is as in ReadJSONL.
func ReadLocksJSONL(r io.Reader) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		names, err := idNames(tasks.KindLockRelease)
		if err != nil {
			yield(tasks.Lock{}, err)
			return
		}
		eachLine(newLineReader(r), "", yield, func(text []byte) (l tasks.Lock, err error) {
			ids, members, err := parseObject(tasks.KindLockRelease, names, text)
			if err == nil {
				l, err = newLock(ids)
			}
			if err == nil && members[expiryName] != nil {
				l.ExpiresAt, err = expiryMember(members)
			}
			return l, err
		})
	}
}

func expiryMember(members map[string]json.RawMessage) (time.Time, error) {
	text, err := stringMember(members, expiryName)
	if err != nil {
		return time.Time{}, err
	}
	return parseExpiry(text)
}

// newLock makes a lock of its ids, in the order of idNames.
func newLock(ids [2]string) (tasks.Lock, error) {
	l := tasks.Lock{UserID: ids[0], LockID: ids[1]}
	return l, l.ID().Validate()
}

func parseExpiry(text string) (time.Time, error) {
	at, err := tasks.ParseTime(expiryName, text)
	if err == nil && at.IsZero() { // in a Lock it would mean that the file does not say
		err = &tasks.FieldError{Field: expiryName, Problem: "is the beginning of the year 1, which stands for no time; want one, or leave it out"}
	}
	return at, err
}
