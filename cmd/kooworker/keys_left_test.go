package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
	workerlocks "github.com/kooworker/kooworker/worker/locks"
)

// fileLocks is how many locks the file of sweepFile lists. All of them are stale.
const fileLocks = workerlocks.FewStale

func TestKeysLeft(t *testing.T) {
	t.Parallel()
	testKeysLeft(t, 600, 8, 100, false)
}

// keysLeft is a Redis in which tasks of every fate leave their keys.
type keysLeft struct {
	*keyCheck
	t      *testing.T
	redis  *redistest.Server
	sim    *simulator.Simulator
	url    string
	client *enqueue.Client
	ledger *batch.Store
	store  *deadletter.Store
	args   []string // of its workers
	env    []string
}

// testKeysLeft carries out n tasks of every fate, kills workers and sweeps locks, and
// compares the keys that are left with docs/redis-keys.md. If workers are killed at
// work, it takes at least as long as their leases last.
func testKeysLeft(t *testing.T, n, deaths, sweeps int, atWork bool) {
	t.Helper()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,call=unbind,target=dead-*")
	rdb := server.Client()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		t.Fatal(err)
	}
	var webhooks atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { webhooks.Add(1) }))
	t.Cleanup(receiver.Close)
	k := &keysLeft{
		t: t, redis: server, sim: sim, url: url, client: client, ledger: batch.NewStore(rdb), store: deadletter.NewStore(rdb),
		keyCheck: &keyCheck{rdb: rdb, rows: keyTable(t), seen: map[string]int{}},
		args: []string{
			"worker", "--redis-url", server.URL(), "--koodrive-url", url, "--concurrency", "16", "--backoff-first", "1s",
			"--max-crashes", "100", "--webhook-url", receiver.URL,
		},
		env: []string{"KOODRIVE_TOKEN=t0ken", "KOOWORKER_WEBHOOK_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLwSw"},
	}
	const devices = 3 // of each user that is off-boarded
	batches := n/20 + 4 + sweeps
	k.limits = map[string]int64{
		"queues": int64(len(tasks.QueueWeights())), "servers": int64(4 * (deaths + 2)), "schedulers": 2, "schedules": 1, "workers": int64(deaths + 2),
		"tasks": int64(2*n + sweeps*3), "dead letters": int64(n), "batches": int64(batches), "open batches": int64(batches), "locks": int64(sweeps + fileLocks), "sweeps": 1,
		"single outcomes": int64(4 * n), "bytes of single users": int64(3 * 4 * n),
		"stops":                       1 + 1, // and the number of changes
		"sets of letters":             int64(3 * n),
		"devices and locks of a user": devices + 4, // and four fields of the record's own
	}

	// Each sweep enqueues one release. Half of the locks are renewed before a worker
	// runs, so that their releases are superseded.
	k.sweep(sweeps)
	k.sweepFile()
	k.killScheduler()
	k.enqueue(n, devices)
	k.kooworker("queue", "pause", "unbind", "--reason", strings.Repeat("<", 200), "--for", "365d")
	k.kooworker("queue", "pause", "sweep")
	k.check(t, "enqueued")
	k.kooworker("queue", "resume", "--all")
	k.work(deaths, atWork)
	k.check(t, "done")

	// A part of the dead letters is replayed, another discarded, and another deleted as
	// asynqmon does.
	stop := k.start()
	sim.ClearFaults()
	k.kooworker("dead", "replay", "--all", "--limit", strconv.Itoa(n/5))
	k.settle()
	k.kooworker("dead", "discard", "--all", "--limit", strconv.Itoa(n/20), "--yes")
	k.deleteByHand(n / 20)
	k.job()
	stop(syscall.SIGTERM)
	k.check(t, "replayed, discarded and deleted")

	// Time passes: what was dead lately has been dead for long.
	k.age()
	stop = k.start()
	stats, err := k.store.Stats(t.Context(), deadletter.Filter{})
	if err != nil || stats.Total == 0 {
		t.Fatalf("%+v, %v; want some dead letters", stats, err)
	}
	for word, limit := range map[string]int{"servers": 1, "schedulers": 0, "dead letters": stats.Total, "open batches": 0, "batches": batches - 1} {
		k.limits[word] = int64(limit)
	}
	if atWork {
		k.prune() // the worker would take as many pages, one each 10 s
	}
	redistest.Eventually(t, time.Minute, "what is gone has left the lists", func() bool {
		entries := 0
		for _, set := range rdb.Keys(t.Context(), "kooworker:{dead-letter}:reason:*").Val() {
			entries += int(rdb.ZCard(t.Context(), set).Val())
		}
		return rdb.ZCard(t.Context(), "asynq:servers").Val() == 1 && rdb.ZCard(t.Context(), "asynq:schedulers").Val() == 0 &&
			rdb.ZCard(t.Context(), "kooworker:batches").Val() == int64(batches)-1 && entries <= stats.Total &&
			len(rdb.Keys(t.Context(), "asynq:scheduler_history:*").Val()) == 0
	})
	if _, err := k.ledger.DropIdle(t.Context(), 7*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	k.check(t, "after some time")
	stop(syscall.SIGTERM)
	k.check(t, "without workers")

	// The last call fails: no success follows that would remove what is known of it.
	k.limits["dead letters"]++
	fault, err := simulator.ParseFault("forbidden,call=unbind")
	if err == nil {
		err = sim.AddFault(fault)
	}
	if err != nil {
		t.Fatal(err)
	}
	stop = k.start()
	k.kooworker("enqueue", "unbind", "--user-id", "last", "--device-id", "last")
	k.settle()
	stop(syscall.SIGTERM)
	k.check(t, "after a failure")
	t.Logf("%d webhooks, %d dead letters; not seen: %q", webhooks.Load(), stats.Total, k.unseen())
	if webhooks.Load() == 0 {
		t.Error("no webhook was sent; want one for each batch")
	}
	// Only what is there for a moment may be in the table without having been seen. The
	// record of an off-boarding is there while its unbinds are under way, and a job's canary until the
	// job ends.
	for _, key := range k.unseen() {
		if strings.Contains(key, "brood:") || strings.Contains(key, "}:canary:") {
			continue
		}
		for _, row := range k.rows {
			if most := row.maxTTL(t); row.key == key && (most > time.Hour || most == 0 && !slices.Contains([]string{"list", "zset", "set"}, row.kind)) {
				t.Errorf("%s is in docs/redis-keys.md, and nobody has written it", key)
			}
		}
	}
}

func (k *keysLeft) kooworker(args ...string) {
	k.t.Helper()
	if r := kooworker(k.t, "", append(args, "--redis-url", k.redis.URL())...); r.code != exitDone {
		k.t.Fatalf("%v: %+v; want exit 0", args, r)
	}
}

// start starts a worker. stop ends it.
func (k *keysLeft) start() (stop func(syscall.Signal)) {
	k.t.Helper()
	p := startProcess(k.t, k.env, k.args...)
	redistest.Eventually(k.t, 30*time.Second, "the worker runs", func() bool { return strings.Contains(p.log(), "worker is running") })
	return func(sig syscall.Signal) { p.end(k.t, sig) }
}

// sweep tracks and sweeps one stale lock after the other, and renews every second one.
func (k *keysLeft) sweep(n int) {
	k.t.Helper()
	ledger := locks.NewStore(k.rdb)
	sweeper := &workerlocks.Sweeper{Source: workerlocks.Ledger{Store: ledger}, Store: ledger, Batches: k.ledger, Releases: k.client, Logger: zap.NewNop()}
	for i := range n {
		lock := locks.TrackRequest{UserID: fmt.Sprint("user-", i), LockID: fmt.Sprintf("lock-%d@102", i), ExpiresAt: time.Now().Add(-time.Hour)}
		k.sim.AddLock(lock.UserID, lock.LockID, time.Now().Add(time.Hour))
		if _, err := ledger.Track(k.t.Context(), []locks.TrackRequest{lock}); err != nil {
			k.t.Fatal(err)
		}
		if report, err := sweeper.Sweep(k.t.Context(), workerlocks.Options{}); err != nil || report.Enqueued != 1 {
			k.t.Fatalf("%+v, %v; want one release", report, err)
		}
		if i%2 == 0 {
			lock.ExpiresAt = time.Now().Add(24 * time.Hour)
			if _, err := ledger.Renew(k.t.Context(), []locks.TrackRequest{lock}); err != nil {
				k.t.Fatal(err)
			}
		}
	}
}

// sweepFile sweeps the stale locks of a file, which the workers read as well.
func (k *keysLeft) sweepFile() {
	k.t.Helper()
	text := "user_id,lock_id,expires_at\n"
	for i := range fileLocks {
		user, lock := fmt.Sprint("listed-", i), fmt.Sprintf("listed-%d@102", i)
		k.sim.AddLock(user, lock, time.Now().Add(time.Hour))
		text += user + "," + lock + "," + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + "\n"
	}
	path := filepath.Join(k.t.TempDir(), "locks.csv")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.args = append(k.args, "--source-file", path)
	k.kooworker("locks", "sweep", "--source-file", path)
}

// killScheduler kills a scheduler after it has enqueued a sweep.
func (k *keysLeft) killScheduler() {
	k.t.Helper()
	p := startProcess(k.t, nil, "scheduler", "--sweep-every", "1s", "--redis-url", k.redis.URL())
	redistest.Eventually(k.t, 30*time.Second, "a sweep is scheduled", func() bool {
		return len(k.rdb.Keys(k.t.Context(), "asynq:scheduler_history:*").Val()) == 1 && k.rdb.ZCard(k.t.Context(), "asynq:schedulers").Val() == 1
	})
	p.end(k.t, syscall.SIGKILL)
}

// enqueue enqueues single tasks, batches and off-boardings. A third of the unbinds
// succeeds, a third finds its device gone, and a third dies.
func (k *keysLeft) enqueue(n, devices int) {
	k.t.Helper()
	const perBatch = 10
	task := func(kind string, i int) tasks.DeviceUnbind {
		fate := []string{"bound", "gone", "dead"}[i%3]
		t := tasks.DeviceUnbind{UserID: fmt.Sprint("u-", i%97), DeviceID: fmt.Sprintf("%s-%s-%d", fate, kind, i)}
		if fate == "bound" {
			k.sim.Bind(t.UserID, simulator.Device{DeviceID: t.DeviceID})
		}
		return t
	}
	of := func(list ...tasks.Task) iter.Seq2[tasks.Task, error] {
		return func(yield func(tasks.Task, error) bool) {
			for _, t := range list {
				if !yield(t, nil) {
					return
				}
			}
		}
	}
	bulk := func(spec *batch.Spec, list ...tasks.Task) {
		k.t.Helper()
		if _, err := k.client.Bulk(k.t.Context(), of(list...), enqueue.BulkOptions{Batch: spec}); err != nil {
			k.t.Fatal(err)
		}
	}
	var single, users []tasks.Task
	for i := range n / 2 {
		single = append(single, task("single", i))
	}
	for i := range n / 10 {
		user := fmt.Sprint("leaver-", i)
		for range devices {
			k.sim.Bind(user, simulator.Device{})
		}
		users = append(users, tasks.UserOffboard{UserID: user})
	}
	bulk(nil, append(single, users[:len(users)/2]...)...)
	// A bulk whose input breaks off leaves its proof behind.
	cut := func(yield func(tasks.Task, error) bool) {
		_ = yield(task("cut", 0), nil) && yield(nil, errors.New("the input breaks off"))
	}
	if _, err := k.client.Bulk(k.t.Context(), cut, enqueue.BulkOptions{}); err == nil {
		k.t.Fatal("no error of a bulk whose input breaks off; want one")
	}
	bulk(&batch.Spec{ID: "leavers"}, users[len(users)/2:]...)
	bulk(&batch.Spec{ID: "no-receipts", NoReceipts: true}, task("plain", 0), task("plain", 1), task("plain", 0))
	for b := range n / 2 / perBatch {
		list := []tasks.Task{tasks.DeviceUnbind{UserID: "not valid"}} // is rejected
		for i := range perBatch {
			list = append(list, task(fmt.Sprint("batch-", b), i))
		}
		bulk(&batch.Spec{ID: fmt.Sprint("batch-", b)}, append(list, list[1])...)
	}
	if err := k.ledger.Cancel(k.t.Context(), batch.Cancellation{Batch: "no-receipts", UserID: "nobody"}); err != nil {
		k.t.Fatal(err)
	}
	// The producer of this batch dies.
	if _, _, err := k.ledger.Open(k.t.Context(), batch.Spec{ID: "never-closed"}); err != nil {
		k.t.Fatal(err)
	}
}

// work runs a worker until nothing is left to do. Others are killed, beside it or
// afterwards.
func (k *keysLeft) work(deaths int, atWork bool) {
	k.t.Helper()
	stop := k.start()
	defer stop(syscall.SIGTERM)
	if !atWork {
		k.settle()
	}
	var wg sync.WaitGroup
	next := make(chan int)
	for range 2 {
		wg.Go(func() {
			for range next {
				k.start()(syscall.SIGKILL)
			}
		})
	}
	for i := range deaths {
		next <- i
	}
	close(next)
	wg.Wait()
	k.settle()
}

// settle waits until every task has an outcome and every completion is announced. It
// checks the keys now and then: some are there only while tasks run.
func (k *keysLeft) settle() {
	k.t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(k.rdb)
	calm, next := 0, time.Now()
	redistest.Eventually(k.t, 30*time.Minute, "every task has an outcome", func() bool {
		busy := int(k.rdb.SCard(k.t.Context(), "kooworker:batches:open").Val()) - 1 // never-closed
		for queue := range tasks.QueueWeights() {
			if info, err := inspector.GetQueueInfo(queue); err == nil {
				busy += info.Pending + info.Active + info.Scheduled + info.Archived
				if queue != tasks.QueueDeadLetter {
					busy += info.Retry
				}
			}
		}
		if time.Now().After(next) {
			began := time.Now()
			k.check(k.t, "at work")
			next = time.Now().Add(10 * time.Since(began))
		}
		// A dead task may be on its way from one queue to the other.
		if calm++; busy > 0 {
			calm = 0
		}
		return calm > 20
	})
}

// prune removes the entries of all that is gone, as workers do page by page.
func (k *keysLeft) prune() {
	k.t.Helper()
	var letters deadletter.IndexPosition
	var batches batch.ListPosition
	for first := true; first || letters != (deadletter.IndexPosition{}); first = false {
		if _, err := k.store.PruneIndex(k.t.Context(), &letters); err != nil {
			k.t.Fatal(err)
		}
	}
	for first := true; first || batches != (batch.ListPosition{}); first = false {
		if _, err := k.ledger.PruneList(k.t.Context(), &batches); err != nil {
			k.t.Fatal(err)
		}
	}
}

// job replays a dead letter as the dashboard does.
func (k *keysLeft) job() {
	k.t.Helper()
	runner, err := bulk.New(bulk.Config{Redis: k.rdb})
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(k.t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { runner.Run(ctx) })
	jobs := bulk.NewStore(k.rdb)
	id, err := jobs.Order(ctx, bulk.Order{Kind: bulk.Replay, Filter: deadletter.Filter{Limit: 1}, Canary: 1, By: "test", Reason: "test"})
	if err != nil {
		k.t.Fatal(err)
	}
	redistest.Eventually(k.t, time.Minute, "the job has ended", func() bool {
		j, err := jobs.Get(ctx, id)
		return err == nil && j.State == bulk.Done && j.Done == 1
	})
}

// deleteByHand deletes dead letters as asynqmon does.
func (k *keysLeft) deleteByHand(n int) {
	k.t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(k.rdb)
	infos, err := inspector.ListRetryTasks(tasks.QueueDeadLetter, asynq.PageSize(n))
	if err != nil || len(infos) != n {
		k.t.Fatalf("%d dead letters, %v; want %d", len(infos), err, n)
	}
	for _, info := range infos {
		if err := inspector.DeleteTask(tasks.QueueDeadLetter, info.ID); err != nil {
			k.t.Fatal(err)
		}
	}
}

// age lets two hours pass for the dead on asynq's lists, a month and more for the
// histories of schedules, for the batch that was never closed, and for another that
// is complete.
func (k *keysLeft) age() {
	k.t.Helper()
	ctx := k.t.Context()
	shift := func(key string, by time.Duration) {
		for _, z := range k.rdb.ZRangeWithScores(ctx, key, 0, -1).Val() {
			if err := k.rdb.ZAdd(ctx, key, redis.Z{Score: z.Score - by.Seconds(), Member: z.Member}).Err(); err != nil {
				k.t.Fatal(err)
			}
		}
	}
	for _, list := range []string{"asynq:servers", "asynq:workers", "asynq:schedulers"} {
		shift(list, 2*time.Hour)
	}
	const days = 31 * 24 * time.Hour
	for _, history := range k.rdb.Keys(ctx, "asynq:scheduler_history:*").Val() {
		shift(history, days)
	}
	if err := k.rdb.HSet(ctx, "kooworker:{batch:never-closed}:meta", "changed_at", time.Now().Add(-days).UnixMilli()).Err(); err != nil {
		k.t.Fatal(err)
	}
	for _, key := range k.rdb.Keys(ctx, "kooworker:{batch:no-receipts}:*").Val() {
		if !strings.HasSuffix(key, ":used") {
			k.rdb.Del(ctx, key)
		}
	}
}
