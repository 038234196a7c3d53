package batch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Search finds out which tasks a batch counts as queued or dead although nobody
// holds them: somebody has deleted them, or Redis has lost them. The caller looks
// through the queues and the dead letters, and reports each task of the batch to Found.
type Search struct {
	store *Store
	id    string
	open  []byte // the states when the search began
	found []byte // a bit for each index
}

// Missing is a task that the ledger counts and nobody holds.
type Missing struct {
	// Index is the task's index in the batch.
	Index int64 `json:"index"`
	// Item is which item of the input the task is, counted from 1; for a file with a header
	// that is the line without the header. 0: it was found by an off-boarding.
	Item int64 `json:"item,omitempty"`
	// State is what the ledger says: queued or dead.
	State string `json:"state"`
}

// Search begins to search for the tasks of a batch.
func (s *Store) Search(ctx context.Context, id string) (*Search, error) {
	if _, err := s.Show(ctx, id); err != nil {
		return nil, err
	}
	states, err := s.states(ctx, id)
	if err != nil {
		return nil, err
	}
	return &Search{store: s, id: id, open: states, found: make([]byte, len(states)/4+1)}, nil
}

// states reads the states of a batch, in parts, since a batch may have many.
func (s *Store) states(ctx context.Context, id string) (all []byte, err error) {
	const part = 1 << 20 // bytes; Redis copies as many in a millisecond
	for {
		text, err := s.rdb.GetRange(ctx, keysOf(id).states, int64(len(all)), int64(len(all))+part-1).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("read the states of batch %s: %w", id, err)
		}
		if all = append(all, text...); len(text) < part {
			return all, nil
		}
	}
}

// Found says that somebody holds the task with this index.
func (q *Search) Found(index int64) {
	if at := index / 8; index >= 0 && at < int64(len(q.found)) {
		q.found[at] |= 1 << (index % 8)
	}
}

// Missing returns what was not found, in order. A task that was queued and has an
// outcome by now is not missing, nor is one that was enqueued after the search began.
func (q *Search) Missing(ctx context.Context) (all []Missing, err error) {
	states, err := q.store.states(ctx, q.id)
	if err != nil {
		return nil, err
	}
	input, err := q.store.inputMapOf(ctx, q.id)
	if err != nil {
		return nil, err
	}
	before, now := Chunk{states: string(q.open)}, Chunk{states: string(states)}
	for i := range 2 * len(q.open) {
		if q.found[i/8]&(1<<(i%8)) != 0 {
			continue
		}
		was, is := before.State(i), now.State(i)
		if isOutstanding(was) && isOutstanding(is) {
			all = append(all, Missing{Index: int64(i), Item: input.item(int64(i)), State: is.String()})
		}
	}
	return all, nil
}

func isOutstanding(s State) bool { return s == Queued || s == Dead }

// inputMap says which items the indexes of a batch are. It has a part for each chunk,
// in the order of the input, which is the order of the indexes.
type inputMap []chunkItems

type chunkItems struct{ first, items int64 }

// inputMapOf reads the slots of a batch.
func (s *Store) inputMapOf(ctx context.Context, id string) (inputMap, error) {
	slots, err := s.rdb.Get(ctx, keysOf(id).slots).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read the input of batch %s: %w", id, err)
	}
	const size = 16
	var m inputMap
	for slot := range slices.Chunk(slots, size) {
		if len(slot) == size {
			m = append(m, chunkItems{int64(binary.BigEndian.Uint32(slot)), int64(binary.BigEndian.Uint16(slot[4:]))})
		}
	}
	return m, nil
}

// item returns the number of an index's item, from 1 on; 0 if it is not one of the input.
func (m inputMap) item(index int64) int64 {
	n := sort.Search(len(m), func(i int) bool { return m[i].first > index }) - 1
	if n < 0 || index >= m[n].first+m[n].items {
		return 0
	}
	return int64(n)*ChunkSize + index - m[n].first + 1
}

// StalledAfter is for how long nothing must have happened to a batch before its tasks are
// looked for. Otherwise some would be on their way between the ledger and the queues.
const StalledAfter = time.Minute

// Stalled is a batch to which nothing happens although it has tasks.
type Stalled struct {
	ID     string
	Queued int64
	Lane   tasks.Lane
}

// Stalled returns the open batches that have queued tasks and to which nothing has happened
// for so long.
func (s *Store) Stalled(ctx context.Context, idle time.Duration) (stalled []Stalled, err error) {
	now, err := s.rdb.Time(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("read Redis' clock: %w", err)
	}
	ids, err := s.rdb.SMembers(ctx, openKey).Result()
	if err != nil {
		return nil, fmt.Errorf("list the open batches: %w", err)
	}
	for page := range slices.Chunk(ids, listPage) {
		cmds := make([]*redis.SliceCmd, len(page))
		_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range page {
				cmds[i] = p.HMGet(ctx, keysOf(id).meta, "queued", "changed_at", "lane")
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read the open batches: %w", err)
		}
		for i, cmd := range cmds {
			text := func(field int) string { t, _ := cmd.Val()[field].(string); return t }
			queued, _ := strconv.ParseInt(text(0), 10, 64) // what is not a number has no tasks
			changed, err := strconv.ParseInt(text(1), 10, 64)
			lane, known := tasks.ParseLane(text(2))
			if queued > 0 && err == nil && known && time.UnixMilli(changed).Before(now.Add(-idle)) {
				stalled = append(stalled, Stalled{page[i], queued, lane})
			}
		}
	}
	return stalled, nil
}
