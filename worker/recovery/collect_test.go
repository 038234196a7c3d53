package recovery_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/recovery"
)

// TestCollect_MoreThanAsynqArchives archives more tasks than asynq keeps, as
// asynqmon's button does: those beyond the limit are in no set, with the state
// archived. All of them reach the Parker.
func TestCollect_MoreThanAsynqArchives(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 10_100
	var msg string
	b.enqueue(unbind, "template")
	msg = b.field("template", "msg")
	for chunk := range slices.Chunk(ids(n), 500) {
		_, err := b.rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for _, id := range chunk {
				p.HSet(t.Context(), key(unbind, "t:"+id), "msg", renamed(msg, "template", id), "state", "pending", "pending_since", "1")
				p.LPush(t.Context(), key(unbind, "pending"), id)
			}
			return nil
		})
		b.must(err)
	}
	if archived, err := b.inspector.ArchiveAllPendingTasks(unbind); err != nil || archived != n+1 {
		t.Fatalf("asynq archived %d, %v; want %d", archived, err, n+1)
	}
	if in := b.rdb.ZCard(t.Context(), key(unbind, "archived")).Val(); in != 9_999 {
		t.Fatalf("the archived set holds %d; want asynq's limit", in)
	}
	b.cfg.Queues, b.cfg.Interval = []string{unbind}, 10*time.Millisecond
	b.run()
	redistest.Eventually(t, 60*time.Second, "every task to be parked", func() bool { return b.counts.of(recovery.Collected) == n+1 })
	if keys := b.rdb.Keys(t.Context(), key(unbind, "t:*")).Val(); len(keys) != 0 {
		t.Errorf("%d hashes are left; want none", len(keys))
	}
	if parked := b.parker.ids(); len(parked) != n+1 {
		t.Errorf("the Parker has %d tasks; want %d", len(parked), n+1)
	}
}

// stringField encodes a string field of a message.
func stringField(num protowire.Number, s string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), s))
}

// renamed gives a message another ID.
func renamed(msg, from, to string) string {
	return strings.Replace(msg, stringField(3, from), stringField(3, to), 1)
}

func TestCollect_ArchivedTaskKeepsItsReason(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.parker.refuse(errors.New("away"))
	for _, id := range []string{"a", "b"} {
		b.enqueue(unbind, id)
	}
	b.must(b.inspector.ArchiveTask(unbind, "a"))
	b.must(b.inspector.ArchiveTask(unbind, "b"))
	b.must(b.rdb.HSet(t.Context(), key(unbind, "t:b"), "msg", b.field("b", "msg")+stringField(7, "forbidden: no!")).Err())
	b.passes(2)
	b.wantAt(unbind, "a", "archived", "hash")
	b.parker.refuse(nil)
	b.passes(2)
	b.wantAt(unbind, "a")
	b.wantAt(unbind, "b")
	if l, ok := b.parker.letter("a"); !ok || l.Reason != tasks.Archived || l.Queue != unbind {
		t.Errorf("parked %+v; want task a of queue unbind with the reason archived", l)
	}
	if l, _ := b.parker.letter("b"); l.Reason != tasks.Forbidden || l.Error != "forbidden: no!" {
		t.Errorf("parked %+v; want it with the reason and the error of its last retry", l)
	}
}

func TestCollect_ArchivedLetterIsParkedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(dead, "x")
	b.must(b.inspector.ArchiveTask(dead, "x"))
	b.passes(1)
	b.wantAt(dead, "x", "retry", "hash")
	info, err := b.inspector.GetTaskInfo(dead, "x")
	if err != nil || time.Until(info.NextProcessAt) < 9*365*24*time.Hour || info.Retried != 1 || info.LastErr != "" {
		t.Errorf("the letter is %+v, %v; want it ten years ahead, with one retry and no error", info, err)
	}
	b.want(map[recovery.Repair]int{recovery.Collected: 1})
}

// TestRestore_EveryState strands a task in each state, and leaves another one in its
// set.
func TestRestore_EveryState(t *testing.T) {
	t.Parallel()
	for state, want := range map[string][]string{
		"pending": {"pending", "hash"}, "active": {"pending", "hash"}, "scheduled": {"pending", "hash"}, "retry": {"pending", "hash"},
		"archived": {}, "completed": {}, "odd": {"pending", "hash"}, "": {"pending", "hash"},
		"aggregating": {"hash"},
	} {
		t.Run("state "+state, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			for _, queue := range []string{unbind, dead} {
				b.enqueue(queue, "x")
				b.enqueue(queue, "placed")
				b.must(b.rdb.LRem(t.Context(), key(queue, "pending"), 0, "x").Err())
				b.must(b.rdb.HSet(t.Context(), key(queue, "t:x"), "state", state, "pending_since", "1").Err())
				b.must(b.rdb.HSet(t.Context(), key(queue, "t:placed"), "pending_since", "1").Err())
			}
			b.passes(12)
			b.wantAt(unbind, "x", want...)
			b.wantAt(unbind, "placed", "pending", "hash")
			b.wantAt(dead, "placed", "pending", "hash")
			switch state {
			case "completed":
				b.wantAt(dead, "x")
			case "aggregating":
				b.wantAt(dead, "x", "hash")
			default:
				b.wantAt(dead, "x", "retry", "hash")
			}
			if l, parked := b.parker.letter("x"); parked != (state == "archived") || parked && l.Reason != tasks.Archived {
				t.Errorf("parked %v; want task x there, as archived, only if its state was archived", b.parker.letters)
			}
		})
	}
}

// TestRestore_DoneWithoutLease strands a task as asynq itself does: Done takes it
// out of active, finds no lease, and stops there.
func TestRestore_DoneWithoutLease(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enqueue(unbind, "x")
	b.take(unbind, "x", ago(-time.Minute))
	b.must(b.rdb.ZRem(t.Context(), key(unbind, "lease"), "x").Err())
	b.must(b.rdb.LRem(t.Context(), key(unbind, "active"), 0, "x").Err())
	b.wantAt(unbind, "x", "hash")
	b.passes(8)
	b.wantAt(unbind, "x", "pending", "hash")
	b.want(map[recovery.Repair]int{recovery.Restored: 1})
}

func TestRestore_UnreadableHash(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.must(b.rdb.HSet(t.Context(), key(unbind, "t:x"), "state", "active").Err())
	b.must(b.rdb.HSet(t.Context(), key(unbind, "t:y"), "state", "retry", "msg", "\xff").Err())
	b.passes(12)
	b.wantAt(unbind, "x")
	b.wantAt(unbind, "y")
	b.want(map[recovery.Repair]int{recovery.Lost: 1, recovery.Quarantined: 1})
}

// TestRestore_LongQueueIsNotSearched leaves a task alone that is missing in a long
// pending list, and restores it when the list has become short.
func TestRestore_LongQueueIsNotSearched(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Queues = []string{unbind}
	b.enqueue(unbind, "x")
	b.must(b.rdb.HSet(t.Context(), key(unbind, "t:x"), "pending_since", "1").Err())
	b.must(b.rdb.Del(t.Context(), key(unbind, "pending")).Err())
	fill := make([]any, 2001)
	for i := range fill {
		fill[i] = "filler-" + strconv.Itoa(i)
	}
	b.must(b.rdb.LPush(t.Context(), key(unbind, "pending"), fill...).Err())
	b.passes(6)
	b.wantAt(unbind, "x", "hash")
	b.must(b.rdb.LTrim(t.Context(), key(unbind, "pending"), 0, 9).Err())
	b.passes(6)
	b.wantAt(unbind, "x", "pending", "hash")
}

func TestCollect_ReasonOfAnError(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for text, want := range map[string]tasks.Reason{
		"forbidden: no":              tasks.Forbidden,
		"upstream":                   tasks.Upstream,
		"panic: boom":                tasks.Panicked,
		"panic [x.go:1]: boom":       tasks.Panicked,
		"context deadline exceeded":  tasks.TimedOut,
		"asynq: task lease expired":  tasks.TimedOut,
		"something else: not a word": tasks.Archived,
	} {
		id := fmt.Sprintf("%x", text)
		b.enqueue(unbind, id)
		b.must(b.inspector.ArchiveTask(unbind, id))
		b.must(b.rdb.HSet(t.Context(), key(unbind, "t:"+id), "msg", b.field(id, "msg")+stringField(7, text)).Err())
		b.passes(1)
		if l, _ := b.parker.letter(id); l.Reason != want {
			t.Errorf("%q: reason %q; want %q", text, l.Reason, want)
		}
	}
}

// TestCollect_BytesThatAreNoText archives IDs that are not UTF-8 before a good task.
func TestCollect_BytesThatAreNoText(t *testing.T) {
	t.Parallel()
	b := setup(t)
	store := deadletter.NewStore(b.redis.Client())
	b.cfg.Parker = store
	for i := range 5 {
		id := fmt.Sprintf("\xff%d", i)
		b.must(b.rdb.HSet(t.Context(), key(unbind, "t:"+id), "msg", "\xff", "state", "archived").Err())
		b.must(b.rdb.ZAdd(t.Context(), key(unbind, "archived"), redis.Z{Score: float64(ago(time.Minute).Unix()), Member: id}).Err())
	}
	b.enqueue(unbind, "good")
	b.must(b.inspector.ArchiveTask(unbind, "good"))
	b.passes(3)
	if left := b.rdb.ZCard(t.Context(), key(unbind, "archived")).Val(); left != 0 {
		t.Errorf("%d tasks are left in the archive; want none", left)
	}
	stats, err := store.Stats(t.Context(), deadletter.Filter{})
	if err != nil || stats.Total != 6 || stats.ByReason[tasks.Undecodable] != 5 {
		t.Errorf("dead letters %+v, %v; want 6, of which 5 are undecodable", stats, err)
	}
}

// TestParkAndRemove_RefusedTasksHoldUpNoOther has more refused tasks than end the
// parking of a pass, in every place that is looked at, before a good one.
func TestParkAndRemove_RefusedTasksHoldUpNoOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.parker.refuses = unbind + ":bad"
	undecodable := func(id, state string) {
		b.must(b.rdb.HSet(t.Context(), key(unbind, "t:"+id), "msg", "\xff", "state", state).Err())
	}
	want := []string{unbind + ":archived", unbind + ":expired", unbind + ":stranded"}
	for i := range 10 {
		id := fmt.Sprintf("bad%d", i)
		undecodable(id+"a", "archived")
		undecodable(id+"e", "active")
		undecodable(id+"s", "pending")
		b.must(b.rdb.ZAdd(t.Context(), key(unbind, "archived"), redis.Z{Score: 1, Member: id + "a"}).Err())
		b.must(b.rdb.ZAdd(t.Context(), key(unbind, "lease"), redis.Z{Score: 1, Member: id + "e"}).Err())
	}
	undecodable("archived", "archived")
	undecodable("expired", "active")
	undecodable("stranded", "pending")
	b.must(b.rdb.ZAdd(t.Context(), key(unbind, "archived"), redis.Z{Score: 2, Member: "archived"}).Err())
	b.must(b.rdb.ZAdd(t.Context(), key(unbind, "lease"), redis.Z{Score: 2, Member: "expired"}).Err())
	r := b.repairer()
	redistest.Eventually(t, 30*time.Second, "the good tasks to be parked", func() bool {
		b.must(r.Pass(t.Context()))
		return slices.Equal(b.parker.ids(), want)
	})
}
