package enqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
)

// lossCheck notices that Redis has lost tasks of a bulk without a batch: its primary
// has failed before a replica had them, or Redis has restarted from a snapshot.
//
// After such a failure Redis has lost the latest writes, and nothing before them. So
// each exchange sets a bit behind its tasks. At the end of the bulk, all bits that
// Redis has acknowledged must be there. The nodes of a cluster fail one by one, so
// each queue has its own bits, on the node that has its tasks.
//
// It cannot notice what is lost after the end of the bulk. A failover that was not
// finished by then may still lose tasks. Nor does it notice the loss of a task that
// was stored by itself, because another task has its ID, after the last exchange.
type lossCheck struct {
	rdb redis.UniversalClient

	mu     sync.Mutex // guards all below
	queues map[string]*queueBits
}

// queueBits are the bits of one queue.
type queueBits struct {
	key   string
	next  int64
	acked []byte    // as Redis has them: the first bit is the highest one of a byte
	at    time.Time // when the last bit was acknowledged
}

// bitsTTL removes bits that nobody checks, because their producer has died.
const bitsTTL = 24 * time.Hour

// expired reports whether the bits may have expired, because the input has yielded
// nothing for so long.
func (q *queueBits) expired() bool { return time.Since(q.at) > bitsTTL/2 }

func newLossCheck(rdb redis.UniversalClient) *lossCheck {
	return &lossCheck{rdb: rdb, queues: map[string]*queueBits{}}
}

// sentBit is one bit that an exchange sets.
type sentBit struct {
	bits *queueBits
	n    int64
}

// write sets a bit of each queue, behind the commands that the pipeline has so far.
// Each try of an exchange has its own bits, because a try whose reply is lost may have
// set its bits or not.
func (l *lossCheck) write(ctx context.Context, pipe redis.Pipeliner, queues []any) (sent []sentBit, written []redis.Cmder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, queue := range queues {
		name := fmt.Sprint(queue)
		q := l.queues[name]
		if q == nil || q.expired() { // what was sent before cannot be checked any more
			q = &queueBits{key: "kooworker:bulk:{" + name + "}:" + uuid.NewString(), at: time.Now()}
			l.queues[name] = q
		}
		written = append(written, pipe.SetBit(ctx, q.key, q.next, 1), pipe.Expire(ctx, q.key, bitsTTL))
		sent = append(sent, sentBit{q, q.next})
		q.next++
	}
	return sent, written
}

// add records that Redis has acknowledged these bits.
func (l *lossCheck) add(sent []sentBit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range sent {
		q := s.bits
		if grow := int(s.n/8) + 1 - len(q.acked); grow > 0 {
			q.acked = append(q.acked, make([]byte, grow)...)
		}
		q.acked[s.n/8] |= 0x80 >> (s.n % 8)
		q.at = time.Now()
	}
}

// check returns a *batch.DataLossError if Redis has lost a bit. It is called when all
// exchanges are over. If the process dies in between, the bits expire.
func (l *lossCheck) check(ctx context.Context) error {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.queues))
	l.mu.Unlock()
	for _, q := range all {
		stored, err := l.rdb.Get(ctx, q.key).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("check that Redis has lost no task: %w", err)
		}
		for i, acked := range q.acked {
			if (i >= len(stored) || acked&^stored[i] != 0) && !q.expired() {
				return &batch.DataLossError{}
			}
		}
	}
	for _, q := range all { // only now, because the check may be repeated
		_ = l.rdb.Del(ctx, q.key).Err() // else they expire
	}
	return nil
}
