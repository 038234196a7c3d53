package recovery_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestPrune_ListsOfTheDead leaves what killed servers and schedulers leave behind.
func TestPrune_ListsOfTheDead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, list := range []string{"servers", "workers", "schedulers"} {
		for i := range 1000 {
			b.must(b.rdb.ZAdd(t.Context(), "asynq:"+list, redis.Z{Score: float64(ago(2 * time.Hour).Unix()), Member: fmt.Sprintf("asynq:%s:{long dead %d}", list, i)}).Err())
		}
		for name, at := range map[string]time.Time{"dead": ago(5 * time.Minute), "alive": ago(-10 * time.Second)} {
			b.must(b.rdb.ZAdd(t.Context(), "asynq:"+list, redis.Z{Score: float64(at.Unix()), Member: name}).Err())
		}
	}
	b.passes(1)
	for _, list := range []string{"servers", "workers", "schedulers"} {
		if left := b.rdb.ZRange(t.Context(), "asynq:"+list, 0, -1).Val(); !slices.Equal(left, []string{"dead", "alive"}) {
			t.Errorf("%d are left in asynq:%s; want the one that died lately, and the one that lives", len(left), list)
		}
	}
}

// TestPrune_HistoriesOfSchedules leaves what killed schedulers leave behind.
func TestPrune_HistoriesOfSchedules(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, events := range map[string][]time.Time{
		"old": {ago(60 * 24 * time.Hour), ago(31 * 24 * time.Hour)}, "living": {ago(60 * 24 * time.Hour), ago(29 * 24 * time.Hour)},
	} {
		for i, at := range events {
			b.must(b.rdb.ZAdd(t.Context(), "asynq:scheduler_history:"+name, redis.Z{Score: float64(at.Unix()), Member: i}).Err())
		}
	}
	b.passes(2)
	if left := b.rdb.Keys(t.Context(), "asynq:scheduler_history:*").Val(); !slices.Equal(left, []string{"asynq:scheduler_history:living"}) {
		t.Errorf("left %q; want only the history in which something was enqueued within 30 days", left)
	}
}
