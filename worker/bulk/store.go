package bulk

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// The keys have the hash tag of the dead letters, since a script changes letters and the
// job's record together.
const (
	prefix = "kooworker:{" + tasks.QueueDeadLetter + "}:"
	// openKey is the jobs that go on, by when they were ordered, and endedKey the others, by
	// when they ended.
	openKey, endedKey = prefix + "jobs:open", prefix + "jobs:ended"
	jobPrefix         = prefix + "job:"

	maxOpen   = 100
	maxEnded  = 200
	keepEnded = 30 * 24 * time.Hour
)

func recordKey(id string) string { return jobPrefix + id }
func leaseKey(id string) string  { return prefix + "lease:" + id }
func canaryKey(id string) string { return prefix + "canary:" + id }

// Store is the jobs of one Redis. It is safe for concurrent use.
type Store struct {
	rdb     redis.UniversalClient
	letters *deadletter.Store
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store {
	return &Store{rdb: rdb, letters: deadletter.NewStore(rdb)}
}

// orderCmd writes a job down. It is atomic.
//
// KEYS[1] -> kooworker:{dead-letter}:job:<job>
// KEYS[2] -> kooworker:{dead-letter}:jobs:open
// --
// ARGV[1] -> ID
// ARGV[2] -> how many jobs may be open
// ARGV[3…] -> fields and values of the record
//
// Returns 1, or 0 if too many are open.
var orderCmd = redis.NewScript(`
if redis.call("ZCARD", KEYS[2]) >= tonumber(ARGV[2]) then return 0 end
local now = redis.call("TIME")
local at = string.format("%.0f", now[1] * 1000 + math.floor(now[2] / 1000))
for i = 3, #ARGV, 2 do redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call("HSET", KEYS[1], "ordered_at", at)
redis.call("ZADD", KEYS[2], at, ARGV[1])
return 1
`)

// Order writes a job down for a Runner to take, and returns its ID. It is about the letters
// that are dead now.
func (s *Store) Order(ctx context.Context, o Order) (id string, err error) {
	if o, err = o.validate(); err != nil {
		return "", err
	}
	order, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("write the order down: %w", err)
	}
	// The letters that an earlier version has parked must have their places before the
	// position is read.
	if err := s.letters.EnsureIndex(ctx); err != nil {
		return "", err
	}
	position, err := s.letters.Top(ctx)
	if err != nil {
		return "", err
	}
	entries, err := s.letters.Entries(ctx, o.Filter)
	if err != nil {
		return "", err
	}
	var random [6]byte
	_, _ = rand.Read(random[:]) // it never fails
	id = hex.EncodeToString(random[:])
	ok, err := orderCmd.Run(ctx, s.rdb, []string{recordKey(id), openKey}, id, maxOpen,
		"order", order, "state", string(Waiting), "position", position.String(), "entries", entries).Int()
	switch {
	case err != nil:
		return "", fmt.Errorf("write the order down: %w", err)
	case ok == 0:
		return "", ErrTooMany
	}
	return id, nil
}

// Get returns a job as it is now, or ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (Job, error) {
	r, err := s.record(ctx, id)
	return r.Job, err
}

// List returns all jobs: those that go on, and those that have ended, each the latest first.
func (s *Store) List(ctx context.Context) (jobs []Job, err error) {
	for _, key := range []string{openKey, endedKey} {
		ids, err := s.rdb.ZRevRange(ctx, key, 0, -1).Result()
		if err != nil {
			return nil, fmt.Errorf("list the jobs: %w", err)
		}
		replies := make([]*redis.MapStringStringCmd, len(ids))
		_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range ids {
				replies[i] = p.HGetAll(ctx, recordKey(id))
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the jobs: %w", err)
		}
		for i, id := range ids {
			r, err := parse(id, replies[i].Val())
			switch {
			case errors.Is(err, ErrNotFound): // it has expired
			case err != nil:
				return nil, err
			default:
				jobs = append(jobs, r.Job)
			}
		}
	}
	return jobs, nil
}

// stopCmd marks a job. It is atomic.
//
// KEYS[1] -> kooworker:{dead-letter}:job:<job>
// --
// ARGV[1] -> by whom and why, as JSON
//
// Returns 1; 0 if the job has ended; -1 if there is none.
var stopCmd = redis.NewScript(`
local state = redis.call("HGET", KEYS[1], "state")
if not state then return -1 end
if state == "done" or state == "failed" or state == "stopped" then return 0 end
redis.call("HSETNX", KEYS[1], "stop", ARGV[1])
return 1
`)

// stop is who has stopped a job, and why.
type stop struct {
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// Stop stops a job: from now on it changes no letter. What it has done stays done. A Runner
// ends the job within seconds. The reason may be empty.
func (s *Store) Stop(ctx context.Context, id, by, reason string) error {
	by, reason = strings.TrimSpace(by), strings.TrimSpace(reason)
	if by == "" || utf8.RuneCountInString(by) > MaxBy || utf8.RuneCountInString(reason) > MaxReason {
		return &InvalidError{"stop", fmt.Sprintf("want who stops it, in at most %d characters, and why in at most %d", MaxBy, MaxReason)}
	}
	text, err := json.Marshal(stop{by, reason})
	if err != nil {
		return fmt.Errorf("stop job %.40q: %w", id, err)
	}
	n, err := stopCmd.Run(ctx, s.rdb, []string{recordKey(id)}, text).Int()
	switch {
	case err != nil:
		return fmt.Errorf("stop job %.40q: %w", id, err)
	case n < 0:
		return ErrNotFound
	case n == 0:
		return ErrEnded
	}
	return nil
}

// record is a job with what only a Runner needs.
type record struct {
	Job

	position     deadletter.Position
	isStopped    bool
	canaryPassed bool
	canarySentAt time.Time
}

func (s *Store) record(ctx context.Context, id string) (record, error) {
	fields, err := s.rdb.HGetAll(ctx, recordKey(id)).Result()
	if err != nil {
		return record{}, fmt.Errorf("read job %.40q: %w", id, err)
	}
	return parse(id, fields)
}

// parse reads a record.
func parse(id string, fields map[string]string) (r record, err error) {
	if fields["state"] == "" {
		return r, ErrNotFound
	}
	if err := json.Unmarshal([]byte(fields["order"]), &r.Order); err != nil {
		return r, fmt.Errorf("read the order of job %.40q: %w", id, err)
	}
	if r.position, err = deadletter.ParsePosition(fields["position"]); err != nil {
		return r, fmt.Errorf("read job %.40q: %w", id, err)
	}
	number := func(field string) int64 {
		n, parseErr := strconv.ParseInt(cmp.Or(fields[field], "0"), 10, 64)
		if parseErr != nil {
			err = fmt.Errorf("read %s of job %.40q: %w", field, id, parseErr)
		}
		return n
	}
	at := func(field string) time.Time {
		if n := number(field); n > 0 {
			return time.UnixMilli(n).UTC()
		}
		return time.Time{}
	}
	r.ID, r.State = id, State(fields["state"])
	r.OrderedAt, r.StartedAt, r.EndedAt, r.canarySentAt = at("ordered_at"), at("started_at"), at("ended_at"), at("canary_sent_at")
	r.Entries, r.Looked, r.Matched, r.Done, r.Skipped = number("entries"), number("looked"), number("matched"), number("done"), number("skipped")
	r.CanaryReplayed, r.CanarySucceeded = number("canary_replayed"), number("canary_succeeded")
	r.Error, r.Hint, r.canaryPassed = fields["error"], fields["hint"], fields["canary_passed"] == "1"
	if text, ok := fields["stop"]; ok {
		var st stop
		_ = json.Unmarshal([]byte(text), &st) // if it cannot be read, it was stopped nevertheless
		r.isStopped, r.StoppedBy, r.StopReason = true, st.By, st.Reason
	}
	return r, err
}
