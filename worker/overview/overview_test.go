package overview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/gate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fill makes something of everything: two pending unbinds, a scheduled one and a retry in two
// lanes, two dead letters, a late batch of two, a stale lock, a sweep and a pause.
func fill(t *testing.T, rdb redis.UniversalClient) {
	t.Helper()
	ctx := t.Context()
	client := asynq.NewClientFromRedisClient(rdb)
	lane := tasks.LaneUrgent.Of(tasks.QueueUnbind)
	for i, options := range [][]asynq.Option{
		{asynq.Queue(tasks.QueueUnbind)}, {asynq.Queue(lane)}, {asynq.Queue(lane), asynq.ProcessIn(time.Hour)}, {asynq.Queue(lane), asynq.ProcessIn(time.Hour)},
	} {
		task := asynq.NewTask(string(tasks.KindDeviceUnbind), []byte("{}"))
		if _, err := client.Enqueue(task, append(options, asynq.TaskID(fmt.Sprint("t-", i)))...); err != nil {
			t.Fatal(err)
		}
	}
	key := asynqx.TaskKey(lane, "t-3") // becomes a retry, as asynq writes it
	failed, err := asynqx.RewriteFailure([]byte(rdb.HGet(ctx, key, asynqx.FieldMsg).Val()), 1, "upstream: HTTP 503", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	rdb.HSet(ctx, key, asynqx.FieldMsg, failed, asynqx.FieldState, "retry")
	rdb.ZRem(ctx, asynqx.ScheduledKey(lane), "t-3")
	rdb.ZAdd(ctx, asynqx.RetryKey(lane), redis.Z{Score: float64(time.Now().Add(time.Minute).Unix()), Member: "t-3"})
	for i, reason := range []tasks.Reason{tasks.Forbidden, tasks.Invalid} {
		letter := deadletter.Letter{ID: fmt.Sprint("l-", i), Kind: tasks.KindDeviceUnbind, UserID: "u", Target: "d", Reason: reason, Error: string(reason), Attempts: 1, DeadAt: time.Now()}
		if err := deadletter.NewStore(rdb).Park(ctx, letter); err != nil {
			t.Fatal(err)
		}
		// as a worker does at first sight of a letter
		rdb.LRem(ctx, asynqx.PendingKey(tasks.QueueDeadLetter), 1, letter.ID)
		rdb.HSet(ctx, asynqx.TaskKey(tasks.QueueDeadLetter, letter.ID), asynqx.FieldState, "retry")
		rdb.ZAdd(ctx, asynqx.RetryKey(tasks.QueueDeadLetter), redis.Z{Score: float64(time.Now().Add(asynqx.ParkDelay).Unix()), Member: letter.ID})
	}
	if _, _, err := batch.NewStore(rdb).Open(ctx, batch.Spec{ID: "late", DueBy: time.Now().Add(-time.Minute)}); err != nil {
		t.Fatal(err)
	}
	ledger := locks.NewStore(rdb)
	if _, err := ledger.Track(ctx, []locks.TrackRequest{{UserID: "u", LockID: "l@1", ExpiresAt: time.Now().Add(-time.Hour)}, {UserID: "u", LockID: "l@2", ExpiresIn: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if err := ledger.SetLastSweep(ctx, locks.Sweep{Source: tasks.SourceLedger, Began: time.Now(), Total: 2, Stale: 1, HeldBack: 1, Why: "a guard rail"}); err != nil {
		t.Fatal(err)
	}
	if err := pauses.Set(ctx, rdb, []string{tasks.QueueSweep}, pauses.Order{By: "alice", Reason: "INC-1"}); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	fill(t, rdb)
	v, err := Read(t.Context(), rdb, Options{Grace: time.Minute, BatchRates: 5, SampleRetries: 10})
	if err != nil || len(v.Unread) > 0 {
		t.Fatalf("%v, unread %v; want all to be read", err, v.Unread)
	}
	for _, q := range v.Queues {
		want := map[string]Queue{
			tasks.QueueUnbind:     {Pending: 2, Scheduled: 1, Retry: 1},
			tasks.QueueSweep:      {Paused: true},
			tasks.QueueDeadLetter: {Retry: 2},
		}[q.Name]
		if q.Pending != want.Pending || q.Scheduled != want.Scheduled || q.Retry != want.Retry || q.Paused != want.Paused {
			t.Errorf("queue %s is %+v; want %+v", q.Name, q, want)
		}
	}
	if diff := cmp.Diff(map[tasks.Reason]int64{tasks.Upstream: 1}, v.Retries); diff != "" {
		t.Errorf("retries (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(deadletter.Counts{Total: 2, ByReason: map[tasks.Reason]int64{tasks.Forbidden: 1, tasks.Invalid: 1}, ByKind: map[tasks.Kind]int64{tasks.KindDeviceUnbind: 2}}, v.Dead); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	if v.Batches.Open != 1 || v.Batches.Late != 1 || len(v.Batches.List) != 1 || !v.Batches.List[0].Late {
		t.Errorf("batches are %+v; want one, which is late", v.Batches)
	}
	if v.Locks.Total != 2 || v.Locks.Stale != 1 || len(v.Locks.Sweeps) != 1 || v.Locks.Sweeps[0].HeldBack != 1 {
		t.Errorf("locks are %+v; want two, one of them stale, and a sweep", v.Locks)
	}
	if !v.Redis.Up || v.Redis.Version == "" || v.Redis.UsedBytes == 0 || len(v.Redis.Problems) != 1 {
		t.Errorf("Redis is %+v; want one that persists nothing", v.Redis)
	}
	var texts []string
	for _, c := range v.Causes() {
		texts = append(texts, c.Text)
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"no worker runs, and 2 tasks wait", "queue sweep is paused by alice", "nothing is persisted", "2 dead letters: 1 forbidden, 1 invalid", "1 batch is late: late", "held back 1 of 1 stale lock: a guard rail", "about 1 task waits for another attempt"} {
		if !strings.Contains(all, want) {
			t.Errorf("no cause says %q:\n%s", want, all)
		}
	}
}

// A part that cannot be read is named, and the others are read.
func TestRead_BrokenPart(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	rdb.Set(t.Context(), "kooworker:batches:open", "of another version", 0)
	rdb.RPush(t.Context(), "{kooworker:fleet}:quota", "of another version")
	v, err := Read(t.Context(), rdb, Options{})
	if err != nil || len(v.Unread) != 2 || len(v.Queues) != len(tasks.Queues()) {
		t.Errorf("%v, unread %q, %d queues; want two parts that are not read, and all queues", err, v.Unread, len(v.Queues))
	}
}

// gathered are the metrics by name and labels.
func gathered(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			got[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	return got
}

// One process reads the overview, and another one shows the same.
func TestShared_OneReadsForAll(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	fill(t, rdb)
	reader, other := NewShared(SharedConfig{Redis: rdb, Logger: zap.NewNop()}), NewShared(SharedConfig{Redis: server.Client(), Logger: zap.NewNop()})
	if got := gathered(t, other.Metrics()); len(got) != 0 {
		t.Errorf("before anything was read: %v; want no metrics", got)
	}
	for _, s := range []*Shared{reader, other} {
		if err := s.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if owner := rdb.Get(t.Context(), turnKey).Val(); owner != reader.id {
		t.Errorf("the turn is %q's; want %q's, who came first", owner, reader.id)
	}
	got := gathered(t, other.Metrics())
	for name, want := range map[string]float64{
		"asynq_tasks_enqueued_total queue=unbind state=pending":   2,
		"asynq_tasks_enqueued_total queue=unbind state=scheduled": 1,
		"asynq_tasks_enqueued_total queue=unbind state=retry":     1,
		"asynq_queue_size queue=unbind":                           4,
		"asynq_queue_paused_total queue=sweep":                    1,
		"asynq_queue_paused_total queue=unbind":                   0,
		"kooworker_workers":                                       0,
		"kooworker_dead_letters reason=forbidden":                 1,
		"kooworker_dead_letters reason=rejected":                  0,
		"kooworker_batches_open":                                  1,
		"kooworker_batches_late":                                  1,
		"kooworker_locks state=stale":                             1,
		"kooworker_sweep_locks source=ledger state=held_back":     1,
		"kooworker_redis_problem problem=persistence":             1,
		"kooworker_redis_problem problem=eviction":                0,
		"kooworker_redis_up":                                      1,
	} {
		if value, known := got[name]; !known || value != want {
			t.Errorf("%s is %g (known: %t); want %g", name, value, known, want)
		}
	}
	delete(got, "kooworker_redis_latency_seconds")
	mine := gathered(t, reader.Metrics())
	delete(mine, "kooworker_redis_latency_seconds")
	if diff := cmp.Diff(mine, got); diff != "" {
		t.Errorf("the two processes differ:\n%s", diff)
	}

	// The reader dies. When its turn is over, the other one reads.
	rdb.Del(t.Context(), turnKey)
	rdb.Del(t.Context(), asynqx.PausedKey(tasks.QueueSweep))
	if err := other.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if value := gathered(t, other.Metrics())["asynq_queue_paused_total queue=sweep"]; value != 0 {
		t.Errorf("the queue is paused (%g); want what was read after the reader had died", value)
	}
}

// While Redis is away, nothing old is shown as if it were new.
func TestShared_RedisAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := NewShared(SharedConfig{Redis: server.Client(), Logger: zap.NewNop()})
	if err := s.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.refresh(ctx); err == nil {
		t.Error("Redis is away, and no error")
	}
	s.latest.Load().readAt = time.Now().Add(-2 * keepFor)
	got := gathered(t, s.Metrics())
	delete(got, "kooworker_redis_latency_seconds")
	if diff := cmp.Diff(map[string]float64{"kooworker_redis_up": 0}, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	if got := Unreachable(fmt.Errorf("Redis does not answer: %w", errors.New("refused"))); got.Text != "Redis does not answer: refused" || !got.Wrong || got.Hint == "" {
		t.Errorf("%+v; want the cause once, and a hint", got)
	}
}

// Redis answers, and refuses what is written. So no worker can report, and none is missed.
func TestRead_RedisRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil      func(*redistest.Server) error
		text, hint string
	}{
		"full": {
			func(s *redistest.Server) error { return s.Client().ConfigSet(t.Context(), "maxmemory", "1").Err() },
			"Redis refuses to serve: OOM command not allowed", "Redis is full",
		},
		"replica": {
			func(s *redistest.Server) error {
				return s.Client().Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err()
			},
			"Redis refuses to serve: READONLY", "this Redis is a replica",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			rdb := server.Client()
			fill(t, rdb)
			if err := tc.spoil(server); err != nil {
				t.Fatal(err)
			}
			v, err := Read(t.Context(), rdb, Options{})
			if err != nil {
				t.Fatal(err)
			}
			blocked, err := Standstill(t.Context(), rdb, []gate.Kind{gate.Unbind})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []Cause{v.Causes()[0], blocked} {
				if !strings.HasPrefix(c.Text, tc.text) || !strings.Contains(c.Hint, tc.hint) || !c.Wrong {
					t.Errorf("%+v; want %s, and the hint %s", c, tc.text, tc.hint)
				}
			}
			if slices.ContainsFunc(v.Causes(), func(c Cause) bool { return strings.Contains(c.Text, "no worker runs") }) {
				t.Errorf("%+v; want nothing said of workers, which cannot report", v.Causes())
			}
		})
	}
}
