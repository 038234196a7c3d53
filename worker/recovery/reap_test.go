package recovery_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/recovery"
)

func TestReap_ExpiredTaskIsNextAndUncharged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, id := range []string{"a", "expired", "alive", "young"} {
		b.enqueue(unbind, id)
	}
	before := b.field("expired", "msg")
	b.take(unbind, "expired", ago(4*time.Second))
	b.take(unbind, "young", ago(time.Second)) // expired, but within the grace
	b.take(unbind, "alive", ago(-20*time.Second))
	b.passes(2)

	if got := b.rdb.LRange(t.Context(), key(unbind, "pending"), 0, -1).Val(); !slices.Equal(got, []string{"a", "expired"}) {
		t.Errorf("pending is %v; want the expired task at its head, the right end", got)
	}
	b.wantAt(unbind, "alive", "active", "lease", "hash")
	b.wantAt(unbind, "young", "active", "lease", "hash")
	if got := b.field("expired", "msg"); got != before {
		t.Errorf("the message changed: %q; want %q", got, before)
	}
	if since, _ := strconv.ParseInt(b.field("expired", "pending_since"), 10, 64); time.Since(time.Unix(0, since)).Abs() > time.Minute {
		t.Errorf("pending since %d; want now, in nanoseconds", since)
	}
	if got := b.field("expired", crashesAlone); got != "" {
		t.Errorf("counted as crash number %s; no server died", got)
	}
	info, err := b.inspector.GetTaskInfo(unbind, "expired")
	if err != nil || info.State.String() != "pending" || info.Retried != 0 {
		t.Errorf("asynq shows %+v, %v; want it pending without a retry", info, err)
	}
	b.want(map[recovery.Repair]int{recovery.Requeued: 1})
}

func TestReap_TaskThatKeepsKillingItsWorkerIsParked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(unbind, "poison")
	b.parker.refuse(errors.New("dead letters are away"))
	for crash := 1; crash <= 3; crash++ {
		written := ago(40*time.Second + time.Duration(crash)*time.Minute)
		b.leaveHeartbeat("worker-"+strconv.Itoa(crash), written.Add(-3*time.Second))
		b.take(unbind, "poison", written.Add(30*time.Second))
		b.callAlone(unbind, "poison", "worker-"+strconv.Itoa(crash))
		b.passes(2)
		if want := strconv.Itoa(min(crash, 2)); b.field("poison", crashesAlone) != want {
			t.Fatalf("after crash %d: counted %q; want %s", crash, b.field("poison", crashesAlone), want)
		}
	}
	b.wantAt(unbind, "poison", "active", "lease", "hash") // the Parker refused it, so it stays
	b.parker.refuse(nil)
	b.passes(2)
	b.wantAt(unbind, "poison")
	l, _ := b.parker.letter("poison")
	if l.Error != "crashed: it killed its worker 3 times" || l.Reason != tasks.Crashed || l.Kind != tasks.KindDeviceUnbind || string(l.Payload) != "payload of poison" {
		t.Errorf("parked %+v; want the task as it was, with 3 crashes and the reason crashed", l)
	}
	if got := b.counts.of(recovery.Crashed); got != 1 {
		t.Errorf("counted %d as parked; want 1", got)
	}
}

// TestParkAndRemove_CrashInBetween stops a repairer after the letter is stored: the
// next repairer stores it again and then removes the task. If somebody took the task
// in between, it stays.
func TestParkAndRemove_CrashInBetween(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 1
	written := ago(60 * time.Second)
	b.leaveHeartbeat("w", written)
	for _, id := range []string{"left", "taken"} {
		b.enqueue(unbind, id)
		b.take(unbind, id, written.Add(30*time.Second))
		b.callAlone(unbind, id, "w")
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.parker.after = cancel
	r := b.repairer()
	for range 3 {
		_ = r.Pass(ctx)
	}
	r.ReleaseLock(ctx)
	if len(b.parker.ids()) != 1 {
		t.Fatalf("parked %v; want one", b.parker.ids())
	}
	b.wantAt(unbind, "left", "active", "lease", "hash")
	b.wantAt(unbind, "taken", "active", "lease", "hash")

	b.parker.after = func() {
		b.rdb.ZAdd(context.Background(), key(unbind, "lease"), redis.Z{Score: float64(time.Now().Add(30 * time.Second).Unix()), Member: "taken"})
	}
	b.passes(2)
	b.wantAt(unbind, "left")
	b.wantAt(unbind, "taken", "active", "lease", "hash")
}

// TestParkAndRemove_TaskOfABatchGetsItsReceipt keeps a task where it is until its
// receipt is stored.
func TestParkAndRemove_TaskOfABatchGetsItsReceipt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	task, at := tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}, time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	ref := tasks.BatchRef{Batch: "b-7", Index: 3}
	payload, err := tasks.Encode(task, tasks.Intent{BatchRef: ref, EnqueuedAt: at})
	b.must(err)
	b.must(asynqx.EnqueueAll(t.Context(), b.rdb, []asynqx.Order{{ID: "x", Kind: task.Kind(), Queue: unbind, Payload: payload}}))
	b.must(b.inspector.ArchiveTask(unbind, "x"))
	b.receipts.fail = &net.OpError{Op: "dial", Err: errors.New("away")}
	b.passes(1)
	b.wantAt(unbind, "x", "archived", "hash")
	if ids := b.parker.ids(); len(ids) != 0 {
		t.Errorf("parked %q without a receipt; want no letter of a task that may run again", ids)
	}
	b.receipts.fail = nil
	b.passes(1)
	b.wantAt(unbind, "x")
	if l, _ := b.parker.letter("x"); l.UserID != "u" || l.Target != "d" || l.Batch != "b-7" || !l.EnqueuedAt.Equal(at) {
		t.Errorf("parked %+v; want its user, device, batch and time of the order", l)
	}
	want := tasks.Receipt{BatchRef: ref, Kind: task.Kind(), UserID: "u", Target: "d", Outcome: tasks.Dead, Reason: tasks.Archived}
	if b.receipts.last != want {
		t.Errorf("the receipt is %+v; want %+v", b.receipts.last, want)
	}
}

// The ledger of the batch was written by hand. asynq deletes archived tasks some day.
func TestParkAndRemove_WithoutAReceiptThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	task := tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}
	payload, err := tasks.Encode(task, tasks.Intent{BatchRef: tasks.BatchRef{Batch: "b-7"}})
	b.must(err)
	b.must(asynqx.EnqueueAll(t.Context(), b.rdb, []asynqx.Order{{ID: "x", Kind: task.Kind(), Queue: unbind, Payload: payload}}))
	b.must(b.inspector.ArchiveTask(unbind, "x"))
	b.receipts.fail = errors.New("hash value is not an integer")
	b.passes(1)
	b.wantAt(unbind, "x")
	if _, ok := b.parker.letter("x"); !ok {
		t.Error("not parked; want a letter, though there is no receipt")
	}
}

func TestRepark_CrashedReplay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 1
	written := ago(60 * time.Second)
	b.leaveHeartbeat("w", written)
	b.enqueue(dead, "letter")
	b.take(dead, "letter", written.Add(30*time.Second))
	b.callAlone(dead, "letter", "w")
	b.passes(2)
	b.wantAt(dead, "letter", "retry", "hash")
	info, err := b.inspector.GetTaskInfo(dead, "letter")
	if err != nil {
		t.Fatal(err)
	}
	if ahead := time.Until(info.NextProcessAt); ahead < 9*365*24*time.Hour || info.Retried != 1 || info.MaxRetry != tasks.MaxRetry {
		t.Errorf("parked %s ahead, %d of %d retries; want ten years and 1", ahead, info.Retried, info.MaxRetry)
	}
	if want := "crashed: 1 workers died while they worked on it"; info.LastErr != want {
		t.Errorf("the error is %q; want %q", info.LastErr, want)
	}
	if string(info.Payload) != "payload of letter" || info.Headers["h"] != "letter" || info.Timeout != tasks.Timeout {
		t.Errorf("the letter is %+v; want its payload, headers and timeout as they were", info)
	}
	if len(b.parker.ids()) != 0 {
		t.Errorf("the Parker got %v; want nothing, since it is a dead letter already", b.parker.ids())
	}
}

// TestRepark_IndexedFirst indexes a letter before it is parked again. While that fails, the
// letter stays where it is.
func TestRepark_IndexedFirst(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 1
	fails := true
	var indexed []string
	b.cfg.IndexDeath = func(_ context.Context, l deadletter.Letter) error {
		b.wantAt(dead, "letter", "active", "lease", "hash")
		if fails {
			return errors.New("the index cannot be written")
		}
		indexed = append(indexed, l.ID)
		return nil
	}
	written := ago(60 * time.Second)
	b.leaveHeartbeat("w", written)
	b.enqueue(dead, "letter")
	b.take(dead, "letter", written.Add(30*time.Second))
	b.callAlone(dead, "letter", "w")
	r := b.repairer()
	defer r.ReleaseLock(t.Context())
	b.passesOf(r, 1)
	if err := r.Pass(t.Context()); err == nil {
		t.Error("the pass returns nil although the letter cannot be indexed; want an error")
	}
	b.wantAt(dead, "letter", "active", "lease", "hash")
	fails = false
	b.passesOf(r, 1)
	b.wantAt(dead, "letter", "retry", "hash")
	if !slices.Equal(indexed, []string{"letter"}) {
		t.Errorf("indexed %q; want the letter, once", indexed)
	}
}

// TestReap_NoCrash lets leases expire in ways that are not the task's fault.
// MaxCrashes is one, so that a crash which is counted would park the task.
func TestReap_NoCrash(t *testing.T) {
	t.Parallel()
	written := ago(60 * time.Second)
	for name, prepare := range map[string]func(*bundle){
		"no server died":               func(b *bundle) {},
		"one died long before":         func(b *bundle) { b.leaveHeartbeat("w", written.Add(-time.Minute)) },
		"one died later":               func(b *bundle) { b.leaveHeartbeat("w", written.Add(10*time.Second)) },
		"the owner lives and beats":    func(b *bundle) { b.leaveHeartbeat("w", ago(time.Second)) },
		"an unreadable server's entry": func(b *bundle) { b.leaveHeartbeat("w", written.Add(-time.Hour)); b.setStatus("w", "\xff") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.cfg.MaxCrashes = 1
			b.enqueue(unbind, "x")
			b.take(unbind, "x", written.Add(30*time.Second))
			b.callAlone(unbind, "x", "w")
			prepare(b)
			b.passes(2)
			b.wantAt(unbind, "x", "pending", "hash")
			b.want(map[recovery.Repair]int{recovery.Requeued: 1})
		})
	}
}

// TestReap_OwnerWasShuttingDown sees a server that shuts down, and is killed then.
func TestReap_OwnerWasShuttingDown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 1
	written := ago(60 * time.Second)
	b.enqueue(unbind, "x")
	b.take(unbind, "x", written.Add(30*time.Second))
	b.callAlone(unbind, "x", "w")
	b.leaveHeartbeat("w", written)
	b.setStatus("w", "closed")
	r := b.repairer()
	b.must(r.Pass(t.Context()))
	b.must(b.rdb.Del(t.Context(), "asynq:servers:{w}").Err()) // it expires
	b.must(r.Pass(t.Context()))
	b.wantAt(unbind, "x", "pending", "hash")
	if h := b.headers(); h[mark] != "" {
		t.Errorf("headers %v; want no mark of a suspect", h)
	}
}

// setStatus writes a server's info. Field 7 is the status.
func (b *bundle) setStatus(name, status string) {
	b.t.Helper()
	b.must(b.rdb.Set(b.t.Context(), "asynq:servers:{"+name+"}", stringField(7, status), 0).Err())
}

// TestReap_WaitsForMinUptime gives living servers the time to send a heartbeat after
// an outage.
func TestReap_WaitsForMinUptime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MinUptime = time.Hour
	b.enqueue(unbind, "x")
	b.take(unbind, "x", ago(time.Minute))
	b.passes(5)
	b.wantAt(unbind, "x", "active", "lease", "hash")
}

// TestReap_StrayEntryIsRemoved adds to active the ID of a task that waits in another
// set: a parked letter must not be replayed because of that.
func TestReap_StrayEntryIsRemoved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, state := range []string{"retry", "scheduled"} {
		b.enqueue(dead, state)
		b.must(b.rdb.LRem(t.Context(), key(dead, "pending"), 0, state).Err())
		b.must(b.rdb.HSet(t.Context(), key(dead, "t:"+state), "state", state).Err())
		b.must(b.rdb.ZAdd(t.Context(), key(dead, state), redis.Z{Score: 3e9, Member: state}).Err())
	}
	b.enqueue(unbind, "pending")
	for queue, id := range map[string]string{dead: "retry", unbind: "pending"} {
		b.must(b.rdb.LPush(t.Context(), key(queue, "active"), id).Err())
		b.must(b.rdb.ZAdd(t.Context(), key(queue, "lease"), redis.Z{Score: 1, Member: id}).Err())
	}
	b.must(b.rdb.ZAdd(t.Context(), key(dead, "lease"), redis.Z{Score: 1, Member: "scheduled"}).Err())
	b.passes(2)
	b.wantAt(dead, "retry", "retry", "hash")
	b.wantAt(dead, "scheduled", "scheduled", "hash")
	b.wantAt(unbind, "pending", "pending", "hash")
	b.want(map[recovery.Repair]int{recovery.Stray: 3})
}

func TestReap_RefusalsDoNotHoldUpRequeues(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 1
	b.parker.refuse(errors.New("away"))
	written := ago(60 * time.Second)
	b.leaveHeartbeat("w", written)
	for _, id := range ids(120) { // these cannot be parked, and come first
		b.enqueue(unbind, id)
		b.take(unbind, id, written.Add(30*time.Second))
		b.callAlone(unbind, id, "w")
	}
	for i := range 120 {
		id := "later-" + strconv.Itoa(i)
		b.enqueue(unbind, id)
		b.take(unbind, id, ago(4*time.Second))
	}
	b.passes(2)
	if got := b.counts.of(recovery.Requeued); got != 120 {
		t.Errorf("%d requeued; want 120, though the Parker refuses those before them", got)
	}
	if got := b.counts.of(recovery.Refused); got != 3 {
		t.Errorf("called the Parker %d times in a pass; want 3", got)
	}
}
