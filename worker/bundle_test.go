package worker_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/pipeline"
)

func TestMain(m *testing.M) {
	// go-redis continues to dial for a second after its client was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

const (
	testToken = "tok-60f4ccc7b1-3dd9a68068"
	settleIn  = 60 * time.Second
)

// bundle is the configuration of a worker, and what a test inspects.
type bundle struct {
	t         *testing.T
	redis     *redistest.Server
	rdb       *redis.Client
	client    *asynq.Client // the stock one: producers need nothing of ours
	inspector *asynq.Inspector
	letters   *deadletter.Store
	registry  *prometheus.Registry
	logs      *redistest.Buffer
	cfg       worker.Config
}

func setup(t *testing.T, koodriveURL string) *bundle {
	t.Helper()
	server := redistest.Start(t)
	rdb := server.Client()
	b := &bundle{
		t: t, redis: server, rdb: rdb,
		client: asynq.NewClientFromRedisClient(rdb), inspector: asynq.NewInspectorFromRedisClient(rdb),
		letters: deadletter.NewStore(rdb), registry: prometheus.NewRegistry(), logs: &redistest.Buffer{},
	}
	policy := pipeline.DefaultPolicy()
	policy.Backoff = pipeline.Backoff{First: time.Second, Factor: 1, Jitter: 0.1, Cap: time.Second}
	policy.Pause = time.Second
	b.cfg = worker.Config{
		Redis: func() redis.UniversalClient { return redis.NewClient(server.Options()) }, KooDrive: koodrive.Config{BaseURL: koodriveURL, Authorizer: tokenAuthorizer(t, testToken)},
		Releases: worker.NoReleases{}, Concurrency: 16, Policy: &policy, Registry: b.registry, Logger: debugLog(b.logs), ShutdownTimeout: 5 * time.Second,
	}
	return b
}

func tokenAuthorizer(t *testing.T, token string) koodrive.Authorizer {
	t.Helper()
	source, err := koodrive.StaticToken(token)
	if err != nil {
		t.Fatal(err)
	}
	authorizer, err := koodrive.NewTokenAuthorizer("", source)
	if err != nil {
		t.Fatal(err)
	}
	return authorizer
}

// start runs a worker until stop is called, at the latest when the test ends.
func (b *bundle) start() (w *worker.Worker, stop func()) {
	b.t.Helper()
	w, err := worker.New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	result := make(chan error, 1)
	go func() { result <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-result; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
	b.t.Cleanup(stop)
	return w, stop
}

// enqueue enqueues a task as a plain asynq client does, with the documented payload
// and queue.
func (b *bundle) enqueue(task tasks.Task, opts ...asynq.Option) {
	b.t.Helper()
	payload := fmt.Sprintf(`{"v":1,"user_id":%q,"device_id":%q}`, task.User(), task.Target())
	if task.Kind() == tasks.KindLockRelease {
		payload = fmt.Sprintf(`{"v":1,"user_id":%q,"lock_id":%q}`, task.User(), task.Target())
	}
	if _, err := b.client.EnqueueContext(b.t.Context(), asynq.NewTask(string(task.Kind()), []byte(payload)), append([]asynq.Option{asynq.Queue(task.Queue())}, opts...)...); err != nil {
		b.t.Fatal(err)
	}
}

// outstanding counts the tasks without an outcome. Parked letters have one.
func (b *bundle) outstanding() int {
	queues, err := b.inspector.Queues()
	if err != nil {
		return -1
	}
	// A dead task is in both queues for a moment, and then only in the dead-letter
	// queue. That queue is read last, so that the task is counted at least once.
	if i := slices.Index(queues, tasks.QueueDeadLetter); i >= 0 {
		queues = append(slices.Delete(queues, i, i+1), tasks.QueueDeadLetter)
	}
	n := 0
	for _, queue := range queues {
		info, err := b.inspector.GetQueueInfo(queue)
		if err != nil {
			return -1
		}
		n += info.Pending + info.Active + info.Scheduled + info.Archived
		if queue != tasks.QueueDeadLetter {
			n += info.Retry
		}
	}
	return n
}

func (b *bundle) awaitSettled() {
	b.t.Helper()
	redistest.Eventually(b.t, settleIn, "every task has an outcome", func() bool { return b.outstanding() == 0 })
}

func (b *bundle) dead() map[string]deadletter.Letter {
	b.t.Helper()
	out := map[string]deadletter.Letter{}
	for l, err := range b.letters.List(b.t.Context(), deadletter.Filter{}) {
		if err != nil {
			b.t.Fatal(err)
		}
		out[l.Target] = l
	}
	return out
}

// metric sums the counters or gauges of this name that have at least these labels.
func (b *bundle) metric(name string, labels map[string]string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			fits := 0
			for _, l := range m.GetLabel() {
				if labels[l.GetName()] == l.GetValue() {
					fits++
				}
			}
			if fits == len(labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// debugLog is a logger that writes to a buffer, at debug level.
func debugLog(to *redistest.Buffer) *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), to, zap.DebugLevel))
}
