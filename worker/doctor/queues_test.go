package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/doctor"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/gate"
)

func TestQueues_PausedAndUnknown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(tasks.QueueUnbind, "x")
	b.must(pauses.Set(t.Context(), b.rdb, []string{tasks.QueueUnbind}, pauses.Order{By: "ann@ops", Reason: "INC-17"}))
	b.enqueue("unbnid", "y")
	f := b.run()
	f.want("queues.paused", doctor.Warning, "ann@ops", "INC-17", "1 task waits", "kooworker queue resume unbind")
	f.want("queues.unknown", doctor.Warning, `"unbnid" has 1 task`)
	f.want("queues.stuck", doctor.OK, "no task waits")
}

// waitSince makes a task wait since some time ago.
func (b *bundle) waitSince(queue, id string, ago time.Duration) {
	b.t.Helper()
	b.must(b.rdb.HSet(b.t.Context(), asynqx.TaskKey(queue, id), "pending_since", time.Now().Add(-ago).UnixNano()).Err())
}

func TestQueues_Stuck(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(tasks.QueueUnbind, "x")
	f := b.run()
	f.want("workers.alive", doctor.Warning, "no worker is alive")
	f.want("queues.stuck", doctor.OK, "1 task waits") // somebody may be about to start one
	b.waitSince(tasks.QueueUnbind, "x", 10*time.Minute)
	b.run().want("queues.stuck", doctor.Error, "1 task waits", "the oldest for 10 minutes, in queue unbind, and no worker is alive")
	b.aWorker("w", fleet.Report{Host: "w", Version: "v1"})
	b.run().want("queues.stuck", doctor.Error, "nobody works on anything, although 1 worker is alive")
	b.must(b.rdb.LPush(t.Context(), asynqx.ActiveKey(tasks.QueueRelease), "y").Err())
	b.run().want("queues.stuck", doctor.OK, "1 task is being worked on")
}

func TestQueues_DeadLetters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 3 {
		id := fmt.Sprint("d-", i)
		b.must(b.rdb.ZAdd(t.Context(), asynqx.RetryKey(tasks.QueueDeadLetter), redis.Z{Score: float64(time.Now().Add(asynqx.ParkDelay).Unix()), Member: id}).Err())
		b.must(b.rdb.HSet(t.Context(), asynqx.TaskKey(tasks.QueueDeadLetter, id), "msg", "m", "state", "retry").Err())
		b.must(deadletter.NewStore(b.rdb).IndexDeath(t.Context(), deadletter.Letter{
			ID: id, Kind: tasks.KindDeviceUnbind, Reason: []tasks.Reason{tasks.Forbidden, tasks.Forbidden, tasks.Upstream}[i],
		}))
	}
	f := b.run()
	f.want("dead.letters", doctor.Warning, "2 letters of 3 died as forbidden", tasks.Forbidden.Hint(), "--reason forbidden")
	f.want("dead.letters", doctor.Warning, "1 letter of 3 died as upstream")
}

// What a worker says of itself: the calls that it does not make, and its trouble.
func TestWorkers_Reports(t *testing.T) {
	t.Parallel()
	b := setup(t)
	settings := map[string]string{"rate": "0", "concurrency": "16"}
	report := func(host, version string) fleet.Report {
		return fleet.Report{Host: host, PID: 7, Version: version, Settings: settings}
	}
	b.aWorker("a", report("a", "v1"))
	b.aWorker("b", report("b", "v1"))
	b.run().want("workers.settings", doctor.OK, "the same settings")

	other := report("c", "v2")
	other.Settings = map[string]string{"rate": "150", "concurrency": "16"}
	other.Stopped = []fleet.Stopped{{Call: gate.Unbind, Reason: tasks.Unauthorized}, {Call: gate.Release, Reason: tasks.Throttled}}
	other.Problem = "the clock: 9s ahead"
	b.aWorker("c", other)
	f := b.run()
	f.want("workers.settings", doctor.Warning, "differ in version: v1 (a:7, b:7); v2 (c:7)")
	f.want("workers.settings", doctor.Warning, "differ in rate: 0 (a:7, b:7); 150 (c:7)")
	f.want("workers.alive", doctor.Error, "1 worker makes no calls of kind unbind, but for probes: unauthorized")
	f.want("workers.alive", doctor.Warning, "kind release", "throttled")
	f.want("workers.alive", doctor.Error, "worker c:7 takes no tasks: the clock: 9s ahead")
	for _, finding := range f.byName["workers.settings"] {
		if finding.Detail == "" || finding.Status != doctor.Warning {
			t.Errorf("%+v; want the differences only", finding)
		}
	}

	b.must(b.rdb.ZAdd(t.Context(), "{kooworker:fleet}:workers", redis.Z{Score: float64(time.Now().Add(time.Hour).UnixMilli()), Member: "silent"}).Err())
	for _, id := range []string{"b", "c"} {
		b.must(b.rdb.ZRem(t.Context(), "{kooworker:fleet}:workers", id).Err())
	}
	b.run().want("workers.settings", doctor.Warning, "1 of 2 workers say nothing")
}

// A task that is kept although it is done takes the ID of new orders.
func TestTasks_Locked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.rdb.ZAdd(t.Context(), asynqx.CompletedKey(tasks.QueueUnbind), redis.Z{Score: 1e10, Member: "kept"}).Err())
	b.must(b.rdb.HSet(t.Context(), asynqx.TaskKey(tasks.QueueRelease, "done"), "msg", "m", "state", "completed").Err())
	f := b.run()
	f.want("tasks.locked", doctor.Warning, "queue unbind keeps 1 task", "asynq.Retention")
	f.want("tasks.leaked", doctor.Error, "queue release has 1 unreadable task")
}

// Each fault is told with its queue and some IDs, repaired by Fix, and gone after that.
func TestFix_RepairsWhatRunFinds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"orphan", "no-lease", "archived", "done"} {
		b.enqueue(tasks.QueueUnbind, id)
	}
	take := func(id string) {
		b.must(b.rdb.LRem(t.Context(), asynqx.PendingKey(tasks.QueueUnbind), 0, id).Err())
	}
	take("orphan")
	take("no-lease")
	take("done")
	b.must(b.rdb.LPush(t.Context(), asynqx.ActiveKey(tasks.QueueUnbind), "no-lease").Err())
	b.must(b.rdb.HSet(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, "no-lease"), "state", "active").Err())
	b.must(b.rdb.HSet(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, "done"), "state", "completed").Err())
	b.must(asynq.NewInspectorFromRedisClient(b.rdb).ArchiveTask(tasks.QueueUnbind, "archived"))
	b.must(b.rdb.ZAdd(t.Context(), asynqx.ScheduledKey(tasks.QueueRelease), redis.Z{Score: 1e10, Member: "no-hash"}).Err())
	b.must(b.rdb.SRem(t.Context(), asynqx.AllQueuesKey, tasks.QueueUnbind).Err())

	f := b.run()
	f.want("tasks.orphans", doctor.Error, "queue unbind has 1 orphan (orphan)", "kooworker doctor --fix")
	f.want("tasks.active", doctor.Error, "queue unbind has 1 active task without a lease (no-lease)")
	f.want("tasks.archived", doctor.Error, "(archived)")
	f.want("tasks.leaked", doctor.Error, "queue release has 1 ID without a task (no-hash)")
	f.want("tasks.locked", doctor.Error, "(done)")
	f.want("queues.registered", doctor.Warning, "queue unbind")

	texts := b.fix()
	want := []string{
		"queue release: removed 1 ID without a task", "queue release: added it to asynq's list of queues",
		"queue unbind: made dead letters of 1 archived task", "queue unbind: gave a lease to 1 active task without one; if its worker is dead, a new worker puts such a task back when the lease has expired, and so does kooworker doctor --fix in two minutes",
		"queue unbind: added it to asynq's list of queues", "queue unbind: put back 1 orphan", "queue unbind: freed 1 ID of tasks that are done, or in another set",
	}
	if fmt.Sprint(texts) != fmt.Sprint(want) {
		t.Errorf("fixed %q; want %q", texts, want)
	}
	b.run().wantOnly("workers.alive", "dead.letters", "redis.latency")
}

// With --quick, what needs a scan is left out, and said to be.
func TestRun_Quick(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Quick = true
	b.enqueue(tasks.QueueUnbind, "orphan")
	b.must(b.rdb.Del(t.Context(), asynqx.PendingKey(tasks.QueueUnbind)).Err())
	f := b.run()
	f.want("tasks.orphans", doctor.Skipped, "--quick")
	f.want("tasks.archived", doctor.OK)
}

// The tasks of batches to which nothing happens are looked for, and each ledger is counted again.
func TestBatches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	store := batch.NewStore(b.rdb)
	_, _, err := store.Open(t.Context(), batch.Spec{ID: "deletions", Lane: tasks.BatchLanes()[0]})
	b.must(err)
	task := tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}
	var rolling batch.RollingDigest
	rolling.AddTask(task)
	_, err = store.ClaimChunk(t.Context(), "deletions", 0, []batch.Digest{rolling.Digest()})
	b.must(err)
	b.must(store.Mark(t.Context(), "deletions", []batch.Mark{{Index: 0, State: batch.Queued}}, nil))
	b.cfg.Missing = func(_ context.Context, id string) ([]batch.Missing, error) {
		if id != "deletions" {
			return nil, errors.New("another batch")
		}
		return []batch.Missing{{Index: 0, Item: 1, State: "queued"}}, nil
	}
	const meta = "kooworker:{batch:deletions}:meta"
	f := b.run()
	f.want("batches.missing", doctor.OK, "of 0 batches") // something has just happened to it
	f.want("batches.balance", doctor.OK, "1 open batch")
	b.must(b.rdb.HSet(t.Context(), meta, "changed_at", time.Now().Add(-time.Hour).UnixMilli()).Err())
	b.run().want("batches.missing", doctor.Error, "1 task of batch deletions is missing", "--batch deletions --restore")
	b.must(b.rdb.HSet(t.Context(), meta, "queued", 2).Err())
	b.run().want("batches.balance", doctor.Error, "deletions does not balance", "kooworker batch audit deletions")
}

// scheduler runs a scheduler of sweeps as asynq lists it.
func (b *bundle) scheduler(spec string, sweep tasks.LockSweep) {
	b.t.Helper()
	payload, err := tasks.Encode(sweep, tasks.Intent{})
	b.must(err)
	s := asynq.NewSchedulerFromRedisClient(b.server.Client(), &asynq.SchedulerOpts{HeartbeatInterval: 50 * time.Millisecond, LogLevel: asynq.FatalLevel})
	_, err = s.Register(spec, asynq.NewTask(string(sweep.Kind()), payload))
	b.must(err)
	b.must(s.Start())
	b.t.Cleanup(s.Shutdown)
}

func TestSchedules_Doubled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sweep := tasks.LockSweep{Grace: time.Minute, Max: 100, MaxShare: 0.5}
	b.scheduler("@every 1h", sweep)
	b.scheduler("@every 1h", sweep)
	await := func(status doctor.Status, texts ...string) {
		t.Helper()
		time.Sleep(500 * time.Millisecond) //nolint:forbidigo // asynq lists a scheduler with its first heartbeat
		b.run().want("schedules.doubled", status, texts...)
	}
	await(doctor.OK, "ledger: @every 1h", "(2 schedulers)")
	b.scheduler("@every 2h", sweep)
	await(doctor.Warning, "source ledger are swept by 2 schedules that differ", "@every 2h", "--sweep-every")
}
