package recovery_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/recovery"
)

const mark = asynqx.SuspectHeader

// headers returns those of x that asynq hands to a handler.
func (b *bundle) headers() map[string]string {
	b.t.Helper()
	info, err := b.inspector.GetTaskInfo(unbind, "x")
	if err != nil {
		b.t.Fatal(err)
	}
	return info.Headers
}

// TestReap_InFlightIsMarkedAndNotCounted kills workers of one task again and again
// while it only is in flight.
func TestReap_InFlightIsMarkedAndNotCounted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 1
	b.enqueue(unbind, "x")
	for crash := range 10 {
		written := ago(40*time.Second + time.Duration(crash)*time.Minute)
		b.leaveHeartbeat("worker-"+strconv.Itoa(crash), written)
		b.take(unbind, "x", written.Add(30*time.Second))
		b.must(b.rdb.HSet(t.Context(), key(unbind, "t:x"), "kooworker_cleared", "1").Err())
		b.passes(2)
		b.wantAt(unbind, "x", "pending", "hash")
		if h := b.headers(); h[mark] == "" || h["h"] != "x" {
			t.Fatalf("after crash %d: headers %v; want the mark beside those that it had", crash, h)
		}
		if b.field("x", "kooworker_cleared") != "" || b.field("x", crashesAlone) != "" {
			t.Fatalf("after crash %d: the hash says that it is cleared, or counts; want neither", crash)
		}
	}
	b.want(map[recovery.Repair]int{recovery.Requeued: 10})
}

// TestReap_WhatCounts lets the worker of a suspect die, and others at other times.
func TestReap_WhatCounts(t *testing.T) {
	t.Parallel()
	written := ago(60 * time.Second)
	for name, tc := range map[string]struct {
		alone  string // the process that calls it
		others map[string]time.Duration
		want   string // crashes, and the calm ones of them
	}{
		"called alone":                         {alone: "w:7", want: "1 1"},
		"not being called":                     {alone: "", want: " "},
		"called by one that lives":             {alone: "v:7", want: " "},
		"another died just before":             {alone: "w:7", others: map[string]time.Duration{"v:7:s": -15 * time.Second}, want: "1 0"},
		"another died just after":              {alone: "w:7", others: map[string]time.Duration{"v:7:s": 15 * time.Second}, want: "1 0"},
		"another died long before":             {alone: "w:7", others: map[string]time.Duration{"v:7:s": -25 * time.Second}, want: "1 1"},
		"another server of the same process":   {alone: "w:7", others: map[string]time.Duration{"w:7:s": 3 * time.Second}, want: "1 1"},
		"its replacement of the same name too": {alone: "w:7", others: map[string]time.Duration{"w:7:s": 15 * time.Second}, want: "1 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.enqueue(unbind, "x")
			b.take(unbind, "x", written.Add(30*time.Second))
			b.callAlone(unbind, "x", tc.alone)
			b.leaveHeartbeat("w:7:5ca1ab1e", written)
			for server, after := range tc.others {
				b.leaveHeartbeat(server, written.Add(after))
			}
			b.passes(2)
			if tc.want == " " {
				b.wantAt(unbind, "x", "pending", "hash")
			} else { // others have their turn first
				b.wantAt(unbind, "x", "retry", "hash")
				due := time.Unix(int64(b.rdb.ZScore(t.Context(), key(unbind, "retry"), "x").Val()), 0)
				if pause := time.Until(due); pause < 50*time.Second || pause > time.Minute {
					t.Errorf("it pauses for %s; want a minute", pause)
				}
			}
			if got := b.field("x", crashesAlone) + " " + b.field("x", "kooworker_crashes_calm"); got != tc.want {
				t.Errorf("crashes and calm ones are %q; want %q", got, tc.want)
			}
			if b.headers()[mark] == "" || b.field("x", "kooworker_alone") != "" {
				t.Errorf("headers %v, called by %q; want the mark, and called by nobody", b.headers(), b.field("x", "kooworker_alone"))
			}
		})
	}
}

// TestReap_FetchedAhead lets two workers of three slots die at once that had fetched more
// tasks. Those that they cannot have begun are no suspects.
func TestReap_FetchedAhead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	written := ago(60 * time.Second)
	lease := func(process, queue, id string, nth int64) {
		b.enqueue(queue, id)
		b.take(queue, id, written)
		ends := written.Add(30 * time.Second).UnixMicro()
		if process != "" {
			ends += nth*asynqx.LeaseStep - ends%asynqx.LeaseStep + asynqx.LeaseTag(process)
		}
		b.must(b.rdb.ZAdd(t.Context(), key(queue, "lease"), redis.Z{Score: float64(ends) / 1e6, Member: id}).Err())
	}
	written = time.Unix(written.Unix(), 0)
	lease("", unbind, "extended", 0)
	for i := range int64(100) { // more than are reaped at once
		lease("w:7", unbind, fmt.Sprintf("z%03d", 200-i), 10+i)
	}
	lease("w:7", tasks.QueueRelease, "release", 9) // the queues count together
	for i := range int64(20) {                     // in the middle of those of the other worker
		lease("v:9", unbind, fmt.Sprintf("v%02d", i), 50+i)
	}
	r := b.repairer()
	for _, server := range []string{"w:7:s", "v:9:s"} {
		b.leaveHeartbeat(server, written)
		if server == "v:9:s" {
			continue // it died before anybody could read its info
		}
		b.must(b.rdb.Set(t.Context(), "asynq:servers:{"+server+"}", protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 3), 0).Err())
	}
	b.must(r.Pass(t.Context()))
	b.must(b.rdb.Del(t.Context(), "asynq:servers:{w:7:s}").Err()) // it expires
	b.must(r.Pass(t.Context()))
	var marked []string
	for _, queue := range []string{unbind, tasks.QueueRelease} {
		for _, id := range b.rdb.LRange(t.Context(), key(queue, "pending"), 0, -1).Val() {
			m := b.rdb.HGet(t.Context(), key(queue, "t:"+id), "msg").Val()
			if strings.Contains(m, mark) {
				marked = append(marked, id)
			}
		}
	}
	slices.Sort(marked)
	if want := []string{"extended", "release", "v00", "v01", "v02", "z199", "z200"}; !slices.Equal(marked, want) {
		t.Errorf("suspects: %v; want %v", marked, want)
	}
	b.want(map[recovery.Repair]int{recovery.Requeued: 122})
}

// TestReap_PoisonAmongOtherCrashes is dead in the end, though a worker dies every few
// seconds.
func TestReap_PoisonAmongOtherCrashes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxCrashes = 2
	b.enqueue(unbind, "poison")
	for i := range 100 {
		b.leaveHeartbeat(fmt.Sprintf("other-%d:7:s", i), ago(time.Duration(15+7*i)*time.Second))
	}
	for crash := 1; crash <= 6; crash++ {
		if crash > 1 {
			b.wantAt(unbind, "poison", "retry", "hash")
		}
		written := ago(40*time.Second + time.Duration(crash)*time.Minute)
		process := "w:" + strconv.Itoa(crash)
		b.leaveHeartbeat(process+":s", written)
		b.take(unbind, "poison", written.Add(30*time.Second))
		b.callAlone(unbind, "poison", process)
		b.passes(2)
	}
	b.wantAt(unbind, "poison")
	if l, _ := b.parker.letter("poison"); l.Reason != tasks.Crashed || l.Error != "crashed: it killed its worker 6 times" {
		t.Errorf("parked %+v; want it dead after three times as many crashes as in a calm fleet", l)
	}
}

// TestSuspects_OneAtATime lets two suspects come at once.
func TestSuspects_OneAtATime(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), t.Context()
	for _, id := range []string{"x", "y", "survivor"} {
		b.enqueue(unbind, id)
	}
	s := recovery.NewSuspects(b.rdb, 1)
	x, wait := s.Admit(ctx, unbind, "x")
	if x == nil || wait != 0 {
		t.Fatalf("the first suspect: %v, %s; want a run", x, wait)
	}
	alone := func() string { return b.field("x", "kooworker_alone") }
	if got := alone(); got != asynqx.ThisProcess() {
		t.Errorf("called alone by %q; want %q", got, asynqx.ThisProcess())
	}
	b.must(x.Calling(ctx, false))
	if got := alone(); got != "" {
		t.Errorf("while it waits it is called by %q; want nobody", got)
	}
	b.must(x.Calling(ctx, true))

	began := time.Now()
	if run, wait := s.Admit(ctx, unbind, "y"); run != nil || wait < time.Second || wait > 2*time.Second {
		t.Errorf("the second suspect: %v, %s; want a wait of 1s to 2s", run, wait)
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 5*time.Second {
		t.Errorf("it waited in place for %s; want a second", took)
	}
	b.must(b.rdb.HSet(ctx, key(unbind, "t:survivor"), "kooworker_cleared", "1").Err())
	if run, wait := s.Admit(ctx, unbind, "survivor"); run != nil || wait != 0 {
		t.Errorf("one that has survived: %v, %s; want it to run like any other", run, wait)
	}
	if run, _ := recovery.NewSuspects(b.rdb, 0).Admit(ctx, unbind, "y"); run == nil {
		t.Error("another process must wait too; want a suspect in each")
	}

	b.must(b.rdb.HSet(ctx, key(unbind, "t:x"), crashesAlone, "2").Err())
	x.End(ctx, false)
	if got := []string{alone(), b.field("x", "kooworker_cleared"), b.field("x", crashesAlone)}; !slices.Equal(got, []string{"", "", "2"}) {
		t.Errorf("after a run without a call: alone, cleared and crashes are %q; want it to stay a suspect", got)
	}
	x, _ = s.Admit(ctx, unbind, "x")
	if x == nil {
		t.Fatal("the slot is not free after the end; want it free")
	}
	x.End(ctx, true)
	if got := []string{alone(), b.field("x", "kooworker_cleared"), b.field("x", crashesAlone)}; !slices.Equal(got, []string{"", "1", ""}) {
		t.Errorf("after it survived: alone, cleared and crashes are %q; want it cleared, and nothing counted", got)
	}
}

// TestSuspects_ComeBackAsFastAsTheyRun puts many suspects back, and wants them to come
// back over the time that it takes to run them.
func TestSuspects_ComeBackAsFastAsTheyRun(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), t.Context()
	s := recovery.NewSuspects(b.rdb, 0)
	run, _ := s.Admit(ctx, unbind, "x")
	<-time.After(200 * time.Millisecond) // it runs
	run.End(ctx, true)
	run, _ = s.Admit(ctx, unbind, "x")
	defer run.End(ctx, true)
	var longest time.Duration
	for range 300 { // a minute's worth
		_, wait := s.Admit(ctx, unbind, "y")
		if wait < time.Second || wait > 31*time.Second {
			t.Fatalf("a wait of %s; want 1s to 31s", wait)
		}
		longest = max(longest, wait)
	}
	if longest < 20*time.Second {
		t.Errorf("300 suspects that take 200 ms each come back within %s; want half a minute", longest)
	}
}

// TestSuspects_TheNextOneRunsAtOnce lets one wait in place.
func TestSuspects_TheNextOneRunsAtOnce(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), t.Context()
	s := recovery.NewSuspects(b.rdb, 1)
	x, _ := s.Admit(ctx, unbind, "x")
	next := make(chan *recovery.SuspectRun)
	go func() {
		y, _ := s.Admit(ctx, unbind, "y")
		next <- y
	}()
	<-time.After(100 * time.Millisecond)
	x.End(ctx, true)
	y := <-next
	if y == nil {
		t.Fatal("put back; want it to run when the first one has ended")
	}
	y.End(ctx, true)
}

// TestSuspects_TaskIsGone writes nothing for a task that is not there, and nothing
// where Redis is away.
func TestSuspects_TaskIsGone(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), t.Context()
	s := recovery.NewSuspects(b.redis.Client(), 0)
	run, _ := s.Admit(ctx, unbind, "gone")
	if run == nil {
		t.Fatal("refused; want a run")
	}
	run.End(ctx, true)
	b.wantAt(unbind, "gone")
	b.redis.Kill()
	for range 2 { // the slot must be free again
		if run, wait := s.Admit(ctx, unbind, "x"); run != nil || wait < time.Second || wait > 3*time.Second {
			t.Errorf("without Redis: %v, %s; want a short wait", run, wait)
		}
	}
}
