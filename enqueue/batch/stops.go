package batch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// stopsKey is the key of what must not run: a hash that workers read every second. Its
// fields are those of cancellations and of holds, and one that counts the changes. A
// value has one line for who, one for why and, of a hold, one for until when and
// one that says whether it has ended.
const (
	stopsKey     = "kooworker:batches:stops"
	changesField = "changes"
	cancelWord   = "cancel"
	holdWord     = "hold"
)

// field is the name of a cancellation's field. No part contains a space.
func (c Cancellation) field() string {
	return cancelWord + " " + c.Batch + " " + string(c.Kind) + " " + c.UserID
}

// stopCmd sets or deletes a field of the hash.
//
// KEYS[1] -> kooworker:batches:stops
// --
// ARGV[1] -> field
// ARGV[2] -> value; "" deletes the field
// ARGV[3] -> the value that the field must have now; without it, any
//
// Returns 1, or 0 if the field has another value.
var stopCmd = redis.NewScript(`
if ARGV[3] and redis.call("HGET", KEYS[1], ARGV[1]) ~= ARGV[3] then
	return 0
end
if ARGV[2] ~= "" then
	redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
else
	redis.call("HDEL", KEYS[1], ARGV[1])
end
redis.call("HINCRBY", KEYS[1], "` + changesField + `", 1)
return 1
`)

func (s *Store) stop(ctx context.Context, field string, lines ...string) error {
	value := strings.Join(lines, "\n")
	if strings.Count(value, "\n") != len(lines)-1 {
		return errors.New("the reason has several lines; want one")
	}
	return stopCmd.Run(ctx, s.rdb, []string{stopsKey}, field, value).Err()
}

func (s *Store) unstop(ctx context.Context, field string) error {
	return stopCmd.Run(ctx, s.rdb, []string{stopsKey}, field, "").Err()
}

// Stops are the cancellations and holds that a worker knows. The zero value and nil have
// none.
type Stops struct {
	changes   string
	cancelled map[string][]Cancellation // by batch
	held      map[string]Hold           // by batch
}

// Cancelled returns the cancellation that covers a task, if there is one.
func (all *Stops) Cancelled(ref tasks.BatchRef, t tasks.Task) (c Cancellation, ok bool) {
	if all == nil || !ref.IsSet() {
		return c, false
	}
	for _, c := range all.cancelled[ref.Batch] {
		if c.Covers(ref, t) {
			return c, true
		}
	}
	return c, false
}

// Whole returns the cancellation of a whole batch, if there is one.
func (all *Stops) Whole(id string) (c Cancellation, ok bool) {
	if all == nil {
		return c, false
	}
	for _, c := range all.cancelled[id] {
		if c.IsWhole() {
			return c, true
		}
	}
	return c, false
}

// Held returns the hold of a task's batch, if it is held at that time.
func (all *Stops) Held(ref tasks.BatchRef, now time.Time) (h Hold, ok bool) {
	if all == nil || !ref.IsSet() {
		return h, false
	}
	h, ok = all.held[ref.Batch]
	return h, ok && !h.Ended && h.DueAt().After(now)
}

// HoldNow returns the hold of a batch for operators: it is in force at that time, or its
// release has begun and is not finished.
func (all *Stops) HoldNow(id string, now time.Time) (h Hold, ok bool) {
	h, ok = all.HoldOf(id)
	return h, ok && (h.Ended || now.Before(h.DueAt()))
}

// readStopsCmd reads the hash unless it is known.
//
// KEYS[1] -> kooworker:batches:stops
// --
// ARGV[1] -> how often the hash was changed when it was last read; "" at first
//
// Returns the hash, or nothing if it has not changed.
var readStopsCmd = redis.NewScript(`
if (redis.call("HGET", KEYS[1], "` + changesField + `") or "") == ARGV[1] then return false end
return redis.call("HGETALL", KEYS[1])
`)

// Stops reads the cancellations and holds of all batches. It returns known, which may be
// nil, if nothing has changed since that was read.
func (s *Store) Stops(ctx context.Context, known *Stops) (*Stops, error) {
	if known == nil {
		known = &Stops{}
	}
	pairs, err := readStopsCmd.Run(ctx, s.rdb, []string{stopsKey}, known.changes).StringSlice()
	if errors.Is(err, redis.Nil) {
		return known, nil
	}
	if err != nil {
		return known, fmt.Errorf("read which batches are cancelled or held: %w", err)
	}
	out := &Stops{cancelled: make(map[string][]Cancellation), held: make(map[string]Hold)}
	for i := 0; i+1 < len(pairs); i += 2 {
		out.add(pairs[i], pairs[i+1])
	}
	return out, nil
}

// add reads a field of the hash. It passes over one that is not of this version.
func (all *Stops) add(field, value string) {
	words := strings.Split(field, " ")
	lines := append(strings.Split(value, "\n"), "", "", "")
	switch {
	case field == changesField:
		all.changes = value
	case words[0] == cancelWord && len(words) == 4:
		c := Cancellation{Batch: words[1], Kind: tasks.Kind(words[2]), UserID: words[3], By: lines[0], Reason: lines[1]}
		all.cancelled[c.Batch] = append(all.cancelled[c.Batch], c)
	case words[0] == holdWord && len(words) == 2:
		h := Hold{Batch: words[1], By: lines[0], Reason: lines[1], Ended: lines[3] != ""}
		if sec, err := strconv.ParseInt(lines[2], 10, 64); err == nil {
			h.Until = time.Unix(sec, 0).UTC()
		}
		all.held[h.Batch] = h
	}
}

// PruneStops removes the cancellations and holds of a page whose batch's name may be
// used again, and moves the position to the next page. Until then a task of the batch
// may turn up, and must not run.
func (s *Store) PruneStops(ctx context.Context, at *ListPosition) (removed int64, err error) {
	pairs, next, err := s.rdb.HScan(ctx, stopsKey, at.cursor, "", listPage).Result()
	if err != nil {
		return 0, fmt.Errorf("list what is cancelled or held: %w", err)
	}
	used := make(map[string]*redis.IntCmd) // by field
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := 0; i < len(pairs); i += 2 { // a field is followed by its value
			if words := strings.Split(pairs[i], " "); len(words) > 1 {
				used[pairs[i]] = p.Exists(ctx, keysOf(words[1]).used)
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list what is cancelled or held: %w", err)
	}
	at.cursor = next
	for field, cmd := range used {
		if cmd.Val() > 0 {
			continue
		}
		if err := s.unstop(ctx, field); err != nil {
			return removed, fmt.Errorf("forget what is cancelled or held: %w", err)
		}
		removed++
	}
	return removed, nil
}
