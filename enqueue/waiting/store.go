package waiting

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Store is the queues of one Redis. It is safe for concurrent use.
type Store struct{ rdb redis.UniversalClient }

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store { return &Store{rdb: rdb} }

// Task is a task in a queue.
type Task struct {
	ID    string
	Queue string // the lane included
	// Task is what is to be done.
	Task   tasks.Task
	Intent tasks.Intent
	// Attempts is how many were charged to it.
	Attempts int
	// MayBeDone: a call was made for it whose answer is not known, because the connection broke,
	// for example, or the worker died. KooDrive may have carried it out.
	MayBeDone bool
}

// CancelledReceipt returns the receipt of the task if it is cancelled.
func (t Task) CancelledReceipt(reason tasks.Reason) tasks.Receipt {
	if t.MayBeDone {
		reason += tasks.MayBeDone
	}
	return tasks.Receipt{
		BatchRef: t.Intent.BatchRef, Kind: t.Task.Kind(), UserID: t.Task.User(), Target: t.Task.Target(),
		Outcome: tasks.Cancelled, Reason: reason, Attempts: t.Attempts,
	}
}

// Query says which tasks are looked for.
type Query struct {
	// Queues are where to look, their lanes included; see tasks.Lane.
	Queues []string
	// IDPrefixes are what the IDs begin with, any of them. Empty: any ID. Only the
	// tasks with these IDs are read, which makes the search faster.
	IDPrefixes []string
	// Decode reads a task of asynq's. Default: tasks.Decode.
	Decode func(kind string, payload []byte) (tasks.Task, tasks.Intent, error)
	// Matches is asked about each of those. Nil: all match. A task that cannot be
	// decoded does not match.
	Matches func(Task) bool
}

// OfBatch looks for the tasks of a batch, whose lane is l. matches may be nil.
func OfBatch(id string, l tasks.Lane, matches func(Task) bool) Query {
	return Query{
		Queues: tasks.BatchQueues(l), IDPrefixes: []string{id + ":"}, // see tasks.BatchIdentity
		Matches: func(t Task) bool { return t.Intent.BatchRef.Batch == id && (matches == nil || matches(t)) },
	}
}

const (
	// pageSize is how many tasks are looked at in one exchange with Redis. A script that
	// writes as many takes two milliseconds.
	pageSize = 250
	// finishers is how many pages are recorded and deleted at a time, while the next are
	// claimed.
	finishers = 4
)

// mayMatch reports whether the ID is one of those that are looked for.
func (q Query) mayMatch(id string) bool {
	return len(q.IDPrefixes) == 0 || slices.ContainsFunc(q.IDPrefixes, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// read returns those of some tasks of a queue that match.
func (s *Store) read(ctx context.Context, q Query, queue string, ids []string) ([]Task, error) {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !q.mayMatch(id) })
	if len(ids) == 0 {
		return nil, nil
	}
	messages := make([]*redis.StringCmd, len(ids))
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			messages[i] = p.HGet(ctx, asynqx.TaskKey(queue, id), asynqx.FieldMsg)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) { // it is gone meanwhile
		return nil, fmt.Errorf("read the tasks of queue %s: %w", queue, err)
	}
	var out []Task
	for i, id := range ids {
		if t, ok := q.readTask(queue, id, messages[i].Val()); ok && (q.Matches == nil || q.Matches(t)) {
			out = append(out, t)
		}
	}
	return out, nil
}

// readTask decodes a message of asynq's.
func (q Query) readTask(queue, id, message string) (t Task, ok bool) {
	m, err := asynqx.ParseMessage([]byte(message))
	if err != nil || message == "" {
		return t, false
	}
	decode := q.Decode
	if decode == nil {
		decode = func(kind string, payload []byte) (tasks.Task, tasks.Intent, error) {
			return tasks.Decode(tasks.Kind(kind), payload)
		}
	}
	task, intent, err := decode(m.Kind, m.Payload)
	return Task{
		ID: id, Queue: queue, Task: task, Intent: intent, Attempts: int(m.Retried),
		MayBeDone: unknownAnswer(m.ErrorMsg) || strings.Contains(message, asynqx.SuspectHeader),
	}, err == nil
}

// unknownAnswer reports whether after this error of a task nobody knows what KooDrive has done.
// An error line begins with its reason.
func unknownAnswer(text string) bool {
	reason, _, _ := strings.Cut(text, ":")
	return slices.Contains([]tasks.Reason{tasks.TimedOut, tasks.Network, tasks.Upstream, tasks.Protocol, tasks.Misrouted, tasks.Crashed}, tasks.Reason(reason))
}

// Each yields the tasks that match, those that are active last. It ends with an error
// if Redis fails. A task that moves meanwhile may be yielded twice, or not at all.
func (s *Store) Each(ctx context.Context, q Query) iter.Seq2[Task, error] {
	return func(yield func(Task, error) bool) {
		for _, queue := range q.Queues {
			for ids, err := range s.pages(ctx, queue) {
				var found []Task
				if err == nil {
					found, err = s.read(ctx, q, queue, ids)
				}
				if err != nil {
					yield(Task{}, err)
					return
				}
				for _, t := range found {
					if !yield(t, nil) {
						return
					}
				}
			}
		}
	}
}

// pages yields the IDs of the tasks of a queue. A task moves from retry or scheduled
// to pending and from there to active, so these are read in this order.
func (s *Store) pages(ctx context.Context, queue string) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		for _, key := range sets(queue) {
			for ids, err := range s.setPages(ctx, key, all) {
				if !yield(ids, err) || err != nil {
					return
				}
			}
		}
		for _, key := range []string{asynqx.PendingKey(queue), asynqx.ActiveKey(queue)} {
			// Tasks are added at the left and leave at the right. So read from the left, no
			// task is passed over.
			for at := int64(0); ; at += pageSize {
				ids, err := s.rdb.LRange(ctx, key, at, at+pageSize-1).Result()
				if err != nil {
					err = fmt.Errorf("list queue %s: %w", queue, err)
				}
				if len(ids) > 0 || err != nil {
					if !yield(ids, err) || err != nil {
						return
					}
				}
				if len(ids) < pageSize {
					break
				}
			}
		}
	}
}

// sets are the sorted sets in which tasks of a queue wait.
func sets(queue string) []string {
	return []string{asynqx.ScheduledKey(queue), asynqx.RetryKey(queue), asynqx.ArchivedKey(queue)}
}

// all is for setPages.
func all(float64) bool { return true }

// setPages yields the IDs in a sorted set whose scores are wanted.
func (s *Store) setPages(ctx context.Context, key string, wanted func(score float64) bool) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		for cursor := uint64(0); ; {
			pairs, next, err := s.rdb.ZScan(ctx, key, cursor, "", pageSize).Result()
			if err != nil {
				yield(nil, fmt.Errorf("list %s: %w", key, err))
				return
			}
			ids := make([]string, 0, len(pairs)/2)
			for i := 0; i < len(pairs); i += 2 { // a member is followed by its score
				if score, err := strconv.ParseFloat(pairs[i+1], 64); err != nil || wanted(score) {
					ids = append(ids, pairs[i])
				}
			}
			if len(ids) > 0 && !yield(ids, nil) {
				return
			}
			if cursor = next; cursor == 0 {
				return
			}
		}
	}
}

// CountActive returns how many tasks that match are in the hands of workers.
func (s *Store) CountActive(ctx context.Context, q Query) (n int, err error) {
	for _, queue := range q.Queues {
		ids, err := s.rdb.LRange(ctx, asynqx.ActiveKey(queue), 0, -1).Result()
		if err != nil {
			return 0, fmt.Errorf("list queue %s: %w", queue, err)
		}
		for page := range slices.Chunk(ids, pageSize) {
			found, err := s.read(ctx, q, queue, page)
			if err != nil {
				return 0, err
			}
			n += len(found)
		}
	}
	return n, nil
}
