// Package pauses pauses queues as asynq does, and keeps with each pause who made it, why,
// and when it ends.
//
// asynq pauses a queue by the key asynq:{<queue>}:paused. While the key exists, no task of
// the queue is taken. asynq writes the time into it, and never reads what is in it. So a
// [Pause] is kept there, as JSON: the pause and what is known of it come and go together, and
// asynqmon shows and ends such a pause as any other. A pause that has the time as its value
// was made elsewhere: by asynqmon, for example.
//
// Each lane of a queue is a queue of asynq's, with a key of its own. The keys of a queue may
// be on several nodes of a cluster, so they are not written at one moment.
//
// # What happens when
//
//   - A pause has an end: the key expires then, by Redis' clock. No worker and no command has
//     to run for that, and nobody can remove a newer pause by mistake.
//   - The process dies within [Set] or [Remove]: some lanes are paused and others not, and
//     [Lanes.Groups] says which. A second call does the rest.
//   - Two calls at the same moment: each lane has one of the two pauses, whole. The next call
//     makes them one again.
//
// The package imports tasks, internal/asynqx and internal/httpx. Workers and commands use it.
package pauses

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

const (
	// MaxReason is how many characters the reason of a pause has at most.
	MaxReason = httpx.MaxLine
	// MaxFor is the longest time after which a pause ends by itself.
	MaxFor = 365 * 24 * time.Hour
)

// Pause is what is known of a pause. Times are by Redis' clock.
type Pause struct {
	// By is who made it: user@host. It is empty if the pause was made elsewhere.
	By string
	// Reason may be empty.
	Reason string
	// Since is zero if it is not known.
	Since time.Time
	// Until is zero if the pause has no end of its own.
	Until time.Time
}

// wire is how a Pause is kept. Times are in ms of Unix time.
type wire struct {
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
	Since  int64  `json:"since"`
	Until  int64  `json:"until,omitempty"`
}

func (p Pause) encode() (string, error) {
	w := wire{By: httpx.OneLine(p.By), Reason: httpx.OneLine(p.Reason), Since: p.Since.UnixMilli()}
	if !p.Until.IsZero() {
		w.Until = p.Until.UnixMilli()
	}
	text, err := json.Marshal(w)
	if err != nil {
		return "", fmt.Errorf("encode a pause: %w", err)
	}
	return string(text), nil
}

// decode reads what is in a key. It does not fail: a lane is paused whatever the key holds.
func decode(text string) Pause {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return Pause{Since: time.Unix(seconds, 0)}
	}
	var w wire
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return Pause{}
	}
	p := Pause{By: httpx.OneLine(w.By), Reason: httpx.OneLine(w.Reason)}
	if w.Since > 0 {
		p.Since = time.UnixMilli(w.Since)
	}
	if w.Until > 0 {
		p.Until = time.UnixMilli(w.Until)
	}
	return p
}

// Lanes are the lanes that are paused, by their names in Redis.
type Lanes map[string]Pause

// Read returns the lanes that are paused, in one round trip.
func Read(ctx context.Context, rdb redis.UniversalClient) (Lanes, error) {
	lanes, _, err := read(ctx, rdb)
	return lanes, err
}

// read is Read. It returns Redis' time as well.
func read(ctx context.Context, rdb redis.UniversalClient) (Lanes, time.Time, error) {
	var answers func() (Lanes, error)
	var now *redis.TimeCmd
	asynqx.EachReply(rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		answers, now = ReadIn(ctx, p), p.Time(ctx)
		return nil
	}))
	lanes, err := answers()
	if err == nil {
		err = now.Err()
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read which queues are paused: %w", err)
	}
	return lanes, now.Val(), nil
}

// ReadIn adds the commands of Read to a pipeline. The function that it returns reads the
// answers.
func ReadIn(ctx context.Context, p redis.Pipeliner) func() (Lanes, error) {
	answers := make(map[string]*redis.StringCmd)
	for _, queue := range tasks.Queues() {
		for _, lane := range tasks.LanesOf(queue) {
			answers[lane] = p.Get(ctx, asynqx.PausedKey(lane))
		}
	}
	return func() (Lanes, error) {
		lanes := make(Lanes)
		for lane, answer := range answers {
			text, err := answer.Result()
			switch {
			case err == nil:
				lanes[lane] = decode(text)
			case !errors.Is(err, redis.Nil):
				return nil, err
			}
		}
		return lanes, nil
	}
}

// Order is a pause as somebody wants it.
type Order struct {
	By, Reason string
	For        time.Duration // 0: until somebody ends it
}

// Set pauses all lanes of some queues. A queue that is paused already gets this reason and
// this end, and stays paused since when it was.
func Set(ctx context.Context, rdb redis.UniversalClient, queues []string, o Order) error {
	lanes, now, err := read(ctx, rdb)
	if err != nil {
		return err
	}
	var until time.Time
	if o.For > 0 {
		until = now.Add(o.For)
	}
	texts := make(map[string]string, len(queues))
	for _, queue := range queues {
		if texts[queue], err = (Pause{By: o.By, Reason: o.Reason, Since: lanes.since(queue, now), Until: until}).encode(); err != nil {
			return err
		}
	}
	_, err = rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, queue := range queues {
			for _, lane := range tasks.LanesOf(queue) {
				args := redis.SetArgs{}
				if !until.IsZero() {
					args.ExpireAt = until
				}
				p.SetArgs(ctx, asynqx.PausedKey(lane), texts[queue], args)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pause %v: %w", queues, err)
	}
	return nil
}

// since returns since when a queue is paused, now if it is not.
func (l Lanes) since(queue string, now time.Time) time.Time {
	since := now
	for _, lane := range tasks.LanesOf(queue) {
		if p, ok := l[lane]; ok && !p.Since.IsZero() && p.Since.Before(since) {
			since = p.Since
		}
	}
	return since
}

// Remove ends the pauses of all lanes of some queues, whoever made them.
func Remove(ctx context.Context, rdb redis.UniversalClient, queues []string) error {
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, queue := range queues {
			for _, lane := range tasks.LanesOf(queue) {
				p.Del(ctx, asynqx.PausedKey(lane))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("resume %v: %w", queues, err)
	}
	return nil
}

// Group is a pause of a queue, and the lanes that have it.
type Group struct {
	Queue string
	Lanes []string
	Pause
}

// Groups returns the pauses, in the order of tasks.Queues. A queue has several of them if
// its lanes were not paused together.
func (l Lanes) Groups() (out []Group) {
	for _, queue := range tasks.Queues() {
		first := len(out)
		for _, lane := range tasks.LanesOf(queue) {
			p, ok := l[lane]
			if !ok {
				continue
			}
			i := slices.IndexFunc(out[first:], func(g Group) bool { return g.Pause == p })
			if i < 0 {
				out = append(out, Group{Queue: queue, Pause: p})
				i = len(out) - 1 - first
			}
			out[first+i].Lanes = append(out[first+i].Lanes, lane)
		}
	}
	return out
}

// Of returns the pauses of some lanes, as Groups does.
func (l Lanes) Of(lanes []string) []Group {
	some := make(Lanes)
	for _, lane := range lanes {
		if p, ok := l[lane]; ok {
			some[lane] = p
		}
	}
	return some.Groups()
}
