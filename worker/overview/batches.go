package overview

import (
	"cmp"
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// Batches are the batches that are not complete.
type Batches struct {
	Open int `json:"open"`
	Late int `json:"late"` // of these, not complete when they were due
	// Tasks are those of all open batches, by state: queued, or an outcome.
	Tasks map[string]int64 `json:"tasks"`
	// List has the batches with the most queued tasks; late ones come first.
	List []Batch `json:"list"`
}

// Batch is an open batch.
type Batch struct {
	tasks.BatchStats
	Late bool `json:"late"`
	// Rate is how many of its tasks have ended a second lately, and not more than the quota
	// allows; 0 if that is not known, or if their calls are not made.
	Rate float64 `json:"rate"`
	// LeftSeconds is about how long the rest takes at this rate, 0 if that is not known.
	LeftSeconds int64 `json:"left_seconds"`
	// Held says that nothing of it runs for now; nil if it may run.
	Held *batch.Hold `json:"held,omitempty"`
}

// readBatches reads the open batches, and of some how they get on. The workers and the quota
// must have been read before.
func (v *Overview) readBatches(ctx context.Context, rdb redis.UniversalClient, rates int) (Batches, error) {
	now := v.At
	store := batch.NewStore(rdb)
	ongoing, err := store.Ongoing(ctx)
	out := Batches{Open: len(ongoing), Tasks: make(map[string]int64)}
	for _, state := range batchStates {
		out.Tasks[state.name] = 0
	}
	for _, b := range ongoing {
		if b.IsLate(now) {
			out.Late++
		}
		for _, state := range batchStates {
			out.Tasks[state.name] += state.of(b)
		}
		out.List = append(out.List, Batch{BatchStats: b, Late: b.IsLate(now)})
	}
	slices.SortStableFunc(out.List, func(a, b Batch) int {
		if a.Late != b.Late {
			return map[bool]int{true: -1, false: 1}[a.Late]
		}
		return cmp.Compare(b.Queued, a.Queued)
	})
	out.List = out.List[:min(len(out.List), rates)]
	if err != nil || len(out.List) == 0 {
		return out, err
	}
	stops, err := store.Stops(ctx, nil)
	if err != nil {
		return out, err
	}
	for i := range out.List {
		b := &out.List[i]
		if h, ok := stops.HoldNow(b.ID, now); ok {
			b.Held = &h
			continue
		}
		recent, err := store.Recent(ctx, b.ID)
		if err != nil {
			return out, err
		}
		v.setRate(b, recent)
	}
	return out, nil
}

// batchStates are the states of the tasks of a batch.
var batchStates = []struct {
	name string
	of   func(tasks.BatchStats) int64
}{
	{"queued", func(b tasks.BatchStats) int64 { return b.Queued }},
	{"succeeded", func(b tasks.BatchStats) int64 { return b.Succeeded }},
	{"already_gone", func(b tasks.BatchStats) int64 { return b.AlreadyGone }},
	{"superseded", func(b tasks.BatchStats) int64 { return b.Superseded }},
	{"cancelled", func(b tasks.BatchStats) int64 { return b.Cancelled }},
	{"dead", func(b tasks.BatchStats) int64 { return b.Dead }},
	{"discarded", func(b tasks.BatchStats) int64 { return b.Discarded }},
	{"duplicate", func(b tasks.BatchStats) int64 { return b.Duplicate }},
	{"rejected", func(b tasks.BatchStats) int64 { return b.Rejected }},
}
