package deadletter

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Counts are numbers of dead letters.
type Counts struct {
	Total    int64                  `json:"total"`
	ByReason map[tasks.Reason]int64 `json:"by_reason"`
	ByKind   map[tasks.Kind]int64   `json:"by_kind"`
}

// Counts counts the dead letters without reading them: in a millisecond, however many there
// are. Total is exact. The others are the lengths of the index. So a letter that somebody has
// deleted in asynqmon counts under its reason and kind until PruneIndex finds that out, and one that
// is being replayed counts there, too. A letter that has died of several reasons counts under each.
// Letters of reasons that this version does not know are not in ByReason; those of unknown kinds
// count as KindUnknown. Letters that no worker has parked yet are not in Total; see Arriving.
// Stats reads all letters, and is exact.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	var total *redis.IntCmd
	lengths := make(map[slot]*redis.IntCmd)
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		total = p.ZCount(ctx, asynqx.RetryKey(tasks.QueueDeadLetter), strconv.FormatInt(minParkedScore(), 10), "+inf")
		for _, at := range slots(nil, nil) {
			lengths[at] = p.ZCard(ctx, indexPrefix+at.set())
		}
		return nil
	})
	if err != nil {
		return Counts{}, fmt.Errorf("count the dead letters: %w", err)
	}
	counts := Counts{Total: total.Val(), ByReason: make(map[tasks.Reason]int64), ByKind: make(map[tasks.Kind]int64)}
	for at, length := range lengths {
		n := length.Val()
		if n == 0 || counts.Total == 0 {
			continue
		}
		if at.reason != unknownReason {
			counts.ByReason[at.reason] = min(counts.ByReason[at.reason]+n, counts.Total)
		}
		counts.ByKind[at.kind] = min(counts.ByKind[at.kind]+n, counts.Total)
	}
	return counts, nil
}

// mostArriving is how many entries Arriving reads at most, give or take a page.
const mostArriving = 10_000

// Arriving counts the letters that no worker has parked yet. Workers do so at once, so there are
// many only if none is alive. Replays wait in the same lists and are left out. So the messages
// are read, the latest 10,000 of them: isAll is false if there are more.
func (s *Store) Arriving(ctx context.Context) (arriving Stats, isAll bool, err error) {
	arriving = Stats{ByReason: map[tasks.Reason]int{}, ByKind: map[tasks.Kind]int{}}
	pages := 0
	for page, err := range s.arrivingPages(ctx, make(map[string]bool)) {
		if err != nil {
			return arriving, false, err
		}
		for _, e := range page {
			arriving.add(e.read())
		}
		if pages++; pages*pageSize >= mostArriving {
			return arriving, false, nil
		}
	}
	return arriving, true, nil
}
