package deadletter

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// The index lists the letters of each reason, so that finding 12 letters among
// 700,000 does not read 700,000. It is one sorted set per reason, of IDs by time
// of death, beside asynq's keys and under the same hash tag.
//
// An entry may be out of date: the letter may have died of another reason since,
// or be gone. So the letter itself is always read. But no entry is missing. Every
// letter has one under the reason that it shows: Park adds it after it has stored
// the letter and before it returns, and the worker calls IndexReason before it
// parks a replay that failed. If Park is interrupted between storing and indexing,
// the original task stays where it was and will be parked again.
func indexKey(reason tasks.Reason) string {
	return "kooworker:{" + tasks.QueueDeadLetter + "}:reason:" + string(reason)
}

// IndexReason adds a letter that is about to die, or has just died, to the index
// of a reason.
func (s *Store) IndexReason(ctx context.Context, id string, reason tasks.Reason) error {
	if err := s.rdb.ZAdd(ctx, indexKey(reason), redis.Z{Score: float64(time.Now().UnixMilli()), Member: id}).Err(); err != nil {
		return fmt.Errorf("index dead letter %s: %w", id, err)
	}
	return nil
}

// reasonPages yields the letters that the index lists under a reason, latest
// first. It leaves out what dies after the beginning.
func (s *Store) reasonPages(ctx context.Context, reason tasks.Reason, began time.Time) iter.Seq2[[]entry, error] {
	return func(yield func([]entry, error) bool) {
		const removeGone = 1
		for page, err := range s.setPages(ctx, indexKey(reason), strconv.FormatInt(began.UnixMilli()+1, 10), removeGone) {
			if !yield(slices.DeleteFunc(page, func(e entry) bool { return !e.isDead() }), err) {
				return
			}
		}
	}
}
