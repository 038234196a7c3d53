// Package audit keeps who changed what: by the command line, in the dashboard, in asynqmon.
//
// A change is a line of the log, under the name "audit" and whatever the log's level, and an
// entry in Redis, where the dashboard shows it. Redis keeps the latest 10,000 entries, and
// none for longer than 90 days. The log is the record to archive; the entries in Redis are for
// those who ask today who has paused a queue last week.
//
// An entry is written after the change. If the process dies in between, or Redis does not
// take the entry, the change has happened all the same: the log line comes first, and says
// so if the entry is missing.
//
// The command line and package dashboard call it. It owns the key kooworker:audit and imports
// nothing of this module but internal/httpx.
package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/httpx"
)

const (
	key = "kooworker:audit"

	// Most is about how many entries are kept.
	Most = 10_000
	// Keep is for how long they are kept at most.
	Keep = 90 * 24 * time.Hour

	// timeout bounds how long Record waits for Redis.
	timeout = 2 * time.Second
	// maxDetail is how many characters a text of an entry has at most.
	maxDetail = 1000
)

// By which way a change came.
const (
	Command   = "command line"
	Dashboard = "dashboard"
	Asynqmon  = "asynqmon"
)

// Entry is one change.
type Entry struct {
	// At is when Redis took the entry; Record sets it.
	At time.Time `json:"-"`
	// By names who did it: user@host for a command, a user's name for the dashboard.
	By string `json:"by"`
	// Via is the way: Command, Dashboard or Asynqmon.
	Via string `json:"via"`
	// Action says what was done, such as "dead letters discarded".
	Action string `json:"action"`
	// Subject is what it was done to, such as a queue, a batch or a filter; may be empty.
	Subject string `json:"subject,omitempty"`
	// Count is how many tasks it concerned; 0 if that is not counted.
	Count int64 `json:"count,omitempty"`
	// Reason is what the operator says; may be empty.
	Reason string `json:"reason,omitempty"`
	// Error says why it failed, if it did; a part of it may be done.
	Error string `json:"error,omitempty"`
}

// With returns the entry with the error of the change. nil: it succeeded.
func (e Entry) With(err error) Entry {
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

// Log keeps the entries of one Redis. It is safe for concurrent use.
type Log struct {
	rdb redis.UniversalClient
	log *zap.Logger
}

// New returns a Log. The logger should write warnings, whatever the level of others.
func New(rdb redis.UniversalClient, log *zap.Logger) *Log {
	return &Log{rdb: rdb, log: log.Named("audit")}
}

// Record writes an entry to the log and to Redis. It also does so if ctx has ended, because
// the change has happened.
func (l *Log) Record(ctx context.Context, e Entry) {
	e = e.tidy()
	message := e.Action
	if e.Error != "" {
		message += ": failed, or done in part"
	}
	l.log.Warn(message, e.fields()...)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := l.keep(ctx, e); err != nil {
		l.log.Error("Redis does not keep this entry", zap.String("action", e.Action), zap.Error(err))
	}
}

// tidy makes one line of each text, which operators and their browsers have sent.
func (e Entry) tidy() Entry {
	e.By, e.Via, e.Action = httpx.OneLine(e.By), httpx.OneLine(e.Via), httpx.OneLine(e.Action)
	e.Subject, e.Reason, e.Error = shorten(e.Subject), shorten(e.Reason), httpx.ErrorLine(e.Error)
	return e
}

func shorten(text string) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
	if len(runes) > maxDetail {
		return string(runes[:maxDetail]) + "…"
	}
	return string(runes)
}

func (e Entry) fields() (fields []zap.Field) {
	for _, f := range []struct{ name, value string }{{"by", e.By}, {"via", e.Via}, {"subject", e.Subject}, {"reason", e.Reason}, {"error", e.Error}} {
		if f.value != "" {
			fields = append(fields, zap.String(f.name, f.value))
		}
	}
	if e.Count != 0 {
		fields = append(fields, zap.Int64("count", e.Count))
	}
	return fields
}

// keep adds an entry, and removes those that are too old.
func (l *Log) keep(ctx context.Context, e Entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode the entry: %w", err)
	}
	id, err := l.rdb.XAdd(ctx, &redis.XAddArgs{Stream: key, MaxLen: Most, Approx: true, Values: []any{"e", text}}).Result()
	if err != nil {
		return err
	}
	oldest := strconv.FormatInt(timeOf(id).Add(-Keep).UnixMilli(), 10)
	const page = 500 // more than are added between two calls
	old, err := l.rdb.XRangeN(ctx, key, "-", "("+oldest, page).Result()
	if err != nil || len(old) == 0 {
		return cmp.Or(err, l.rdb.Expire(ctx, key, Keep).Err())
	}
	ids := make([]string, len(old))
	for i, m := range old {
		ids[i] = m.ID
	}
	return cmp.Or(l.rdb.XDel(ctx, key, ids...).Err(), l.rdb.Expire(ctx, key, Keep).Err())
}

// Page is some entries, the latest first.
type Page struct {
	Entries []Entry
	// Next is the position of the next page; empty if this is the last.
	Next string
}

// ErrPosition is returned by List for a position that no page has named.
var ErrPosition = errors.New("there is no such position in the audit log; want one that an earlier page has named")

// List returns n entries from a position on: that of an earlier page, or "" for the latest.
func (l *Log) List(ctx context.Context, position string, n int) (Page, error) {
	from := "+"
	if position != "" {
		if timeOf(position).IsZero() {
			return Page{}, fmt.Errorf("%w: %q", ErrPosition, httpx.OneLine(position))
		}
		from = "(" + position
	}
	found, err := l.rdb.XRevRangeN(ctx, key, from, "-", int64(n)+1).Result()
	if err != nil {
		return Page{}, fmt.Errorf("read the audit log: %w", err)
	}
	var page Page
	for i, m := range found {
		if i == n {
			page.Next = found[n-1].ID
			break
		}
		text, _ := m.Values["e"].(string)
		var e Entry
		if json.Unmarshal([]byte(text), &e) != nil {
			continue // a newer version has written it
		}
		e.At = timeOf(m.ID)
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

// timeOf returns the time in the ID of an entry; zero if there is none.
func timeOf(id string) time.Time {
	millis, sequence, ok := strings.Cut(id, "-")
	ms, err := strconv.ParseInt(millis, 10, 64)
	if _, seqErr := strconv.ParseUint(sequence, 10, 64); !ok || err != nil || seqErr != nil || ms < 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
