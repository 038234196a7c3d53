package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const far = 10 * 365 * 24 * time.Hour

// failure is an error of the handler's. Its delay is when asynq retries.
type failure struct {
	text  string
	delay time.Duration
}

func (f failure) Error() string { return f.text }

// bundle is a store. Its worker parks letters that arrive, as the real one does,
// and calls a function for those that are replayed.
type bundle struct {
	store     *deadletter.Store
	inspector *asynq.Inspector
	redis     *redistest.Server
}

func setup(t *testing.T) *bundle {
	t.Helper()
	server := redistest.Start(t)
	rdb := server.Client()
	return &bundle{store: deadletter.NewStore(rdb), inspector: asynq.NewInspectorFromRedisClient(rdb), redis: server}
}

func (b *bundle) work(t *testing.T, replay func(deadletter.Letter) error) {
	t.Helper()
	srv := asynq.NewServerFromRedisClient(b.redis.Client(), asynq.Config{
		Concurrency: 16, Queues: map[string]int{tasks.QueueDeadLetter: 1}, TaskCheckInterval: 10 * time.Millisecond,
		ShutdownTimeout: time.Second, LogLevel: asynq.FatalLevel,
		RetryDelayFunc: func(_ int, err error, _ *asynq.Task) time.Duration {
			if f := (failure{}); errors.As(err, &f) {
				return f.delay
			}
			return time.Second
		},
	})
	err := srv.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		letter := deadletter.Decode(id, task.Type(), task.Payload())
		if n, _ := asynq.GetRetryCount(ctx); n == 0 {
			return failure{letter.Error, far}
		}
		err := replay(letter)
		if err == nil {
			return b.store.Unindex(ctx, letter)
		}
		if f := (failure{}); errors.As(err, &f) && f.delay == far {
			reason, _, _ := strings.Cut(f.text, ":")
			letter.Reason, letter.DeadAt = tasks.Reason(reason), time.Now()
			if err := b.store.IndexDeath(ctx, letter); err != nil {
				return err
			}
		}
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
}

func (b *bundle) list(t *testing.T, f deadletter.Filter) []deadletter.Letter {
	t.Helper()
	var out []deadletter.Letter
	for l, err := range b.store.List(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b deadletter.Letter) int { return slices.Compare([]byte(a.ID), []byte(b.ID)) })
	return out
}

// awaitParked waits until n letters are parked and no other is in the queue.
func (b *bundle) awaitParked(t *testing.T, n int) {
	t.Helper()
	redistest.Eventually(t, 20*time.Second, fmt.Sprintf("%d letters parked", n), func() bool {
		info, err := b.inspector.GetQueueInfo(tasks.QueueDeadLetter)
		return err == nil && info.Retry == n && info.Pending+info.Active == 0
	})
}

func letter(t *testing.T, user, device string, in tasks.Intent) deadletter.Letter {
	t.Helper()
	task := tasks.DeviceUnbind{UserID: user, DeviceID: device}
	payload, err := tasks.Encode(task, in)
	if err != nil {
		t.Fatal(err)
	}
	return deadletter.Letter{
		ID: tasks.Identity(task), Kind: task.Kind(), Queue: task.Queue(), Payload: payload, UserID: user, Target: device,
		Reason: tasks.Forbidden, Error: "forbidden: no permission", Attempts: 1,
		EnqueuedAt: in.EnqueuedAt, DeadAt: time.Now().UTC().Truncate(time.Millisecond),
	}
}

func TestPark_ListedAsItDied(t *testing.T) {
	t.Parallel()
	b := setup(t)
	at := time.Now().UTC().Add(-time.Hour).Truncate(time.Millisecond)
	want := []deadletter.Letter{
		letter(t, "u", "d", tasks.Intent{EnqueuedAt: at}),
		{ID: "odd", Kind: "no:such", Queue: "unbind", Payload: []byte("\xff\x00 bytes"), Reason: tasks.UnknownKind, Error: "unknown_kind: x", DeadAt: at},
	}
	for _, l := range want {
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, b.list(t, deadletter.Filter{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("arriving (-want +got):\n%s", diff)
	}
	b.work(t, func(deadletter.Letter) error { return errors.New("nobody asked for a replay") })
	b.awaitParked(t, 2)
	if diff := cmp.Diff(want, b.list(t, deadletter.Filter{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("parked (-want +got):\n%s", diff)
	}
	infos, err := b.inspector.ListRetryTasks(tasks.QueueDeadLetter)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if info.LastErr == "" || time.Until(info.NextProcessAt) < far/2 {
			t.Errorf("asynqmon would show %s with the error %q, due %s", info.ID, info.LastErr, info.NextProcessAt)
		}
	}
}

func TestList_EmptyRedis(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if got := b.list(t, deadletter.Filter{}); len(got) != 0 {
		t.Errorf("listed %+v; want none", got)
	}
	if res, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil || res != (deadletter.Result{}) {
		t.Errorf("replay: %+v, %v; want nothing done", res, err)
	}
}

func TestList_Filters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	now := time.Now()
	one, two, three := letter(t, "u1", "d1", tasks.Intent{}), letter(t, "u2", "d2", tasks.Intent{}), letter(t, "u1", "d3", tasks.Intent{})
	two.Reason, two.Error, two.DeadAt = tasks.Upstream, "upstream: 503", now.Add(-2*time.Hour)
	three.Kind, three.Batch = tasks.KindLockRelease, "b-7"
	for _, l := range []deadletter.Letter{one, two, three} {
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, 3)
	for name, tc := range map[string]struct {
		filter deadletter.Filter
		want   []string
	}{
		"none":     {deadletter.Filter{}, []string{one.ID, two.ID, three.ID}},
		"id":       {deadletter.Filter{IDs: []string{two.ID, "x"}}, []string{two.ID}},
		"kind":     {deadletter.Filter{Kinds: []tasks.Kind{tasks.KindLockRelease}}, []string{three.ID}},
		"reason":   {deadletter.Filter{Reasons: []tasks.Reason{tasks.Forbidden}}, []string{one.ID, three.ID}},
		"user":     {deadletter.Filter{UserID: "u1"}, []string{one.ID, three.ID}},
		"batch":    {deadletter.Filter{Batch: "b-7"}, []string{three.ID}},
		"old":      {deadletter.Filter{DeadBefore: now.Add(-time.Hour)}, []string{two.ID}},
		"new":      {deadletter.Filter{DeadAfter: now.Add(-time.Hour)}, []string{one.ID, three.ID}},
		"together": {deadletter.Filter{UserID: "u1", Reasons: []tasks.Reason{tasks.Upstream}}, nil},
	} {
		var got []string
		for _, l := range b.list(t, tc.filter) {
			got = append(got, l.ID)
		}
		slices.Sort(tc.want)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := len(b.list(t, deadletter.Filter{Limit: 2})); got != 2 {
		t.Errorf("limit 2: listed %d; want 2", got)
	}
	stats, err := b.store.Stats(t.Context(), deadletter.Filter{})
	if err != nil || stats.Total != 3 || stats.ByReason[tasks.Forbidden] != 2 || stats.ByReason[tasks.Upstream] != 1 || stats.ByKind[tasks.KindLockRelease] != 1 {
		t.Errorf("stats %+v, %v; want 3, of which 2 forbidden, 1 upstream, 1 release", stats, err)
	}
}

// The user of a payload that is no task is found, as far as the payload names one.
func TestList_UserOfAnUndecodablePayload(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	n := 0
	park := func(kind tasks.Kind, payload string) {
		t.Helper()
		l := deadletter.Letter{ID: fmt.Sprint("l-", n), Kind: kind, Queue: tasks.QueueUnbind, Payload: []byte(payload), Reason: tasks.Undecodable, Error: "undecodable: x"}
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		n++
	}
	named := []string{
		`{"v":1,"user_id":"u-7","device":"d"}`, `{"v":9,"user_id":" u-7\n"}`, `{"user_id":"u-7","user":{"id":"u-1"},"device_id":[7]}`,
	}
	for _, payload := range named {
		park(tasks.KindDeviceUnbind, payload)
	}
	park("device:wipe", `{"user_id":"u-7"}`)
	park(tasks.KindDeviceUnbind, `{"user_id":77,"device_id":"d"}`)
	for _, payload := range []string{
		``, `{`, `[]`, `"u-7"`, `u-7`, `null`, `{}`, `{"user_id":null}`, `{"user_id":["u-7"]}`, `{"user_id":true}`, `{"userId":"u-7"}`,
		`{"user_id":"u-7"`, `{"user_id":"` + strings.Repeat("u", 300) + `"}`, "\xff\xfe",
	} {
		park(tasks.KindDeviceUnbind, payload)
	}
	b.awaitParked(t, n)
	for user, want := range map[string]int{"u-7": len(named) + 1, "77": 1, "": n} {
		if got := len(b.list(t, deadletter.Filter{UserID: user})); got != want {
			t.Errorf("user %q: %d letters; want %d", user, got, want)
		}
	}
	// A task that was put into the queue by hand has no envelope.
	if l := deadletter.Decode("x", "device:unbind", []byte(`{"user_id":"u-7"}`)); l.UserID != "u-7" || l.Reason != tasks.Undecodable {
		t.Errorf("%+v; want it undecodable, of u-7", l)
	}
}

func TestList_UnknownKinds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	kinds := []tasks.Kind{"device:wipe", "", deadletter.KindUnknown, "device:unbindx", tasks.KindDeviceUnbind, tasks.KindUserOffboard}
	for i, kind := range kinds {
		if err := b.store.Park(t.Context(), deadletter.Letter{ID: fmt.Sprint("l-", i), Kind: kind, Payload: []byte("x"), Reason: tasks.Archived, Error: "archived"}); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, len(kinds))
	for want, filter := range map[int][]tasks.Kind{
		4: {deadletter.KindUnknown}, 5: {deadletter.KindUnknown, tasks.KindDeviceUnbind}, 1: {"device:wipe"},
	} {
		if got := len(b.list(t, deadletter.Filter{Kinds: filter})); got != want {
			t.Errorf("%v: %d letters; want %d", filter, got, want)
		}
	}
}

func TestList_AllPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	const n = 1203
	for i := range n {
		if err := b.store.Park(t.Context(), letter(t, "u", fmt.Sprint(i), tasks.Intent{})); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, n)
	seen := map[string]bool{}
	for _, l := range b.list(t, deadletter.Filter{}) {
		seen[l.ID] = true
	}
	if len(seen) != n {
		t.Errorf("listed %d letters; want %d", len(seen), n)
	}
}

func TestReplay_InPlaceAndParkedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(l deadletter.Letter) error {
		if l.Target == "good" {
			return nil
		}
		return failure{"upstream: HTTP 500", far}
	})
	for _, device := range []string{"good", "bad"} {
		if err := b.store.Park(t.Context(), letter(t, "u", device, tasks.Intent{})); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, 2)
	if res, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{DryRun: true}); err != nil || res != (deadletter.Result{Matched: 2}) {
		t.Errorf("dry run: %+v, %v; want 2 matched and none done", res, err)
	}
	if res, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil || res != (deadletter.Result{Matched: 2, Done: 2}) {
		t.Errorf("replay: %+v, %v; want 2 done", res, err)
	}
	b.awaitParked(t, 1)
	left := b.list(t, deadletter.Filter{})
	if len(left) != 1 || left[0].Target != "bad" || left[0].Reason != tasks.Upstream || left[0].Error != "upstream: HTTP 500" || left[0].Attempts != 2 {
		t.Errorf("left: %+v; want the bad one, with the new error and 2 attempts", left)
	}
	if res, err := b.store.Discard(t.Context(), deadletter.Filter{Reasons: []tasks.Reason{tasks.Upstream}}, deadletter.Options{}); err != nil || res.Done != 1 {
		t.Errorf("discard: %+v, %v; want 1 done", res, err)
	}
	if left := b.list(t, deadletter.Filter{}); len(left) != 0 {
		t.Errorf("after discard: %+v; want none", left)
	}
}

func TestReplay_Rate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return nil })
	const n, rate = 20, 40
	for i := range n {
		if err := b.store.Park(t.Context(), letter(t, "u", fmt.Sprint(i), tasks.Intent{})); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, n)
	start := time.Now()
	if res, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{Rate: rate}); err != nil || res.Done != n {
		t.Fatalf("replay: %+v, %v; want %d done", res, err, n)
	}
	if took, least := time.Since(start), time.Duration(n-rate/20)*time.Second/rate; took < least {
		t.Errorf("%d at %d a second took %s; want at least %s", n, rate, took, least)
	}
}

func TestPark_IDConflict(t *testing.T) {
	t.Parallel()
	old := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	noReplays := func(deadletter.Letter) error { return errors.New("nobody asked for a replay") }

	t.Run("the same letter arrives", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		l := letter(t, "u", "d", tasks.Intent{})
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		// The fate of the first is open, so the second must not be removed.
		if err := b.store.Park(t.Context(), l); !errors.Is(err, deadletter.ErrBusy) {
			t.Errorf("while it arrives: %v; want ErrBusy", err)
		}
		b.work(t, noReplays)
		b.awaitParked(t, 1)
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Errorf("once it is parked: %v; want nil", err)
		}
		if got := len(b.list(t, deadletter.Filter{})); got != 1 {
			t.Errorf("%d letters; want 1", got)
		}
	})
	t.Run("being replayed", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		started, release := make(chan struct{}), make(chan struct{})
		b.work(t, func(deadletter.Letter) error { close(started); <-release; return nil })
		l := letter(t, "u", "d", tasks.Intent{})
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		b.awaitParked(t, 1)
		if _, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil {
			t.Fatal(err)
		}
		<-started
		if err := b.store.Park(t.Context(), l); !errors.Is(err, deadletter.ErrBusy) {
			t.Errorf("%v; want ErrBusy", err)
		}
		if got := b.list(t, deadletter.Filter{}); len(got) != 0 {
			t.Errorf("while it is replayed: listed %+v; want none", got)
		}
		close(release)
	})
	t.Run("a stronger demand wins over the parked one", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.work(t, noReplays)
		weak := letter(t, "u", "d", tasks.Intent{EnqueuedAt: old, NotAfter: old.Add(time.Minute)})
		strong := letter(t, "u", "d", tasks.Intent{EnqueuedAt: old.Add(time.Second), NoGuard: true})
		for _, l := range []deadletter.Letter{weak, strong, weak} {
			if err := b.store.Park(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			b.awaitParked(t, 1)
		}
		got := b.list(t, deadletter.Filter{})
		_, in, err := got[0].Task()
		if want := (tasks.Intent{EnqueuedAt: old.Add(time.Second), NoGuard: true}); err != nil || in != want {
			t.Errorf("parked with %+v, %v; want %+v", in, err, want)
		}
	})
	t.Run("another task of the same ID", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.work(t, noReplays)
		one, two := letter(t, "u", "d1", tasks.Intent{}), letter(t, "u", "d2", tasks.Intent{})
		one.ID, two.ID = "same", "same"
		for _, l := range []deadletter.Letter{one, two} {
			if err := b.store.Park(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
		b.awaitParked(t, 2)
		if err := b.store.Park(t.Context(), two); err != nil {
			t.Errorf("the second one again: %v; want nil", err)
		}
		var targets []string
		for _, l := range b.list(t, deadletter.Filter{}) {
			targets = append(targets, l.Target)
		}
		slices.Sort(targets)
		if diff := cmp.Diff([]string{"d1", "d2"}, targets); diff != "" {
			t.Errorf("parked (-want +got):\n%s", diff)
		}
	})
	t.Run("an order of unknown age wins over the guard", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.work(t, noReplays)
		for _, in := range []tasks.Intent{{}, {EnqueuedAt: old}} { // the guard only looks at the second
			if err := b.store.Park(t.Context(), letter(t, "u", "d", in)); err != nil {
				t.Fatal(err)
			}
			b.awaitParked(t, 1)
		}
		if _, in, err := b.list(t, deadletter.Filter{})[0].Task(); err != nil || in != (tasks.Intent{}) {
			t.Errorf("parked with %+v, %v; want no enqueued_at, so that the guard does not look at it", in, err)
		}
	})
	t.Run("memory is full", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.work(t, noReplays)
		if err := b.store.Park(t.Context(), letter(t, "u", "d", tasks.Intent{EnqueuedAt: old})); err != nil {
			t.Fatal(err)
		}
		b.awaitParked(t, 1)
		if err := b.redis.Client().ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
			t.Fatal(err)
		}
		if err := b.store.Park(t.Context(), letter(t, "u", "d", tasks.Intent{NoGuard: true})); err == nil {
			t.Error("Park returns nil in a full Redis; want an error")
		}
		if left := b.list(t, deadletter.Filter{}); len(left) != 1 {
			t.Errorf("left: %+v; want the letter that was there", left)
		}
	})
	t.Run("a task without a type", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		if err := b.store.Park(t.Context(), deadletter.Letter{ID: "x", Kind: " ", Queue: "unbind", Payload: []byte("p"), Reason: tasks.UnknownKind}); err != nil {
			t.Fatal(err)
		}
		if got := b.list(t, deadletter.Filter{}); len(got) != 1 || string(got[0].Payload) != "p" {
			t.Errorf("listed %+v; want the letter with its payload", got)
		}
	})
	t.Run("a copy that was archived by hand", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.work(t, noReplays)
		l := letter(t, "u", "d", tasks.Intent{})
		if err := b.store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		b.awaitParked(t, 1)
		if err := b.inspector.ArchiveTask(tasks.QueueDeadLetter, l.ID); err != nil {
			t.Fatal(err)
		}
		// Recovery will put it back. Until then nobody may rely on it.
		if err := b.store.Park(t.Context(), l); !errors.Is(err, deadletter.ErrBusy) {
			t.Errorf("%v; want ErrBusy", err)
		}
	})
}

// TestList_EachOnceWhileOthersMove replays and discards letters while they are
// listed.
func TestList_EachOnceWhileOthersMove(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return failure{"throttled", time.Hour} })
	const n, moved = 1500, 400
	for i := range n {
		if err := b.store.Park(t.Context(), letter(t, fmt.Sprint("u", i%3), fmt.Sprint(i), tasks.Intent{})); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitParked(t, n)
	seen := map[string]int{}
	for l, err := range b.store.List(t.Context(), deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[l.ID]++; len(seen) == 10 {
			// These fail and wait for an hour, so they are not dead when the listing
			// comes to them.
			res, err := b.store.Replay(t.Context(), deadletter.Filter{UserID: "u1", Limit: moved}, deadletter.Options{})
			if err != nil || res.Done != moved {
				t.Fatalf("%+v, %v", res, err)
			}
			if _, err := b.store.Discard(t.Context(), deadletter.Filter{UserID: "u2", Limit: 1}, deadletter.Options{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range n {
		id := letter(t, fmt.Sprint("u", i%3), fmt.Sprint(i), tasks.Intent{}).ID
		if i%3 == 0 && seen[id] != 1 {
			t.Errorf("%s, which nobody touched, was listed %d times; want once", id, seen[id])
		}
		if seen[id] > 1 {
			t.Errorf("%s was listed %d times; want once at most", id, seen[id])
		}
	}
}

// TestDiscard_LetterHasChanged changes a letter after Discard has read it and before
// Discard deletes it.
func TestDiscard_LetterHasChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return errors.New("nobody asked for a replay") })
	if err := b.store.Park(t.Context(), letter(t, "u", "d", tasks.Intent{EnqueuedAt: time.Now()})); err != nil {
		t.Fatal(err)
	}
	b.awaitParked(t, 1)
	rdb := b.redis.Client()
	changed := sync.OnceFunc(func() {
		if err := b.store.Park(t.Context(), letter(t, "u", "d", tasks.Intent{NoGuard: true})); err != nil {
			t.Error(err)
		}
	})
	rdb.AddHook(beforeChange(changed))
	res, err := deadletter.NewStore(rdb).Discard(t.Context(), deadletter.Filter{UserID: "u"}, deadletter.Options{})
	if err != nil || res != (deadletter.Result{Matched: 1, Skipped: 1}) || len(b.list(t, deadletter.Filter{})) != 1 {
		t.Errorf("%+v, %v; want it skipped", res, err)
	}
}

// beforeChange is a hook that is called before letters are discarded.
type beforeChange func()

func (beforeChange) DialHook(next redis.DialHook) redis.DialHook { return next }

func (act beforeChange) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if slices.Contains(cmd.Args(), any("discard")) {
			act()
		}
		return next(ctx, cmd)
	}
}

func (beforeChange) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestPark_CopiesDieDuringAReplay forces the race that lost 2,000 of 2,000 letters
// when replays were moved back to the work queue: while letters are replayed and die
// again, other copies of the same tasks die as well, find their ID taken, and are
// dropped.
func TestPark_CopiesDieDuringAReplay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work(t, func(deadletter.Letter) error { return failure{"forbidden: still", far} })
	const n = 2000
	letters := make([]deadletter.Letter, n)
	for i := range letters {
		letters[i] = letter(t, "u", fmt.Sprint(i), tasks.Intent{})
	}
	parkAll := func() (busy int) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for chunk := range slices.Chunk(letters, n/8) {
			wg.Go(func() {
				for _, l := range chunk {
					for {
						err := b.store.Park(t.Context(), l)
						if err == nil {
							break // only now does the worker let the dead task go
						}
						if !errors.Is(err, deadletter.ErrBusy) {
							t.Errorf("park: %v", err)
							return
						}
						mu.Lock()
						busy++
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		return busy
	}
	parkAll()
	b.awaitParked(t, n)

	replayed, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		res, err := b.store.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{})
		if err != nil {
			t.Errorf("replay: %v", err)
		}
		replayed = res.Done
	}()
	busy, rounds := 0, 0
	for replaying := true; replaying; rounds++ {
		select {
		case <-done:
			replaying = false
		default:
			busy += parkAll()
		}
	}
	b.awaitParked(t, n)
	if got := len(b.list(t, deadletter.Filter{})); got != n {
		t.Errorf("%d letters are left; want %d", got, n)
	}
	t.Logf("%d replayed, while %d copies died; %d times the place was taken by a replay", replayed, rounds*n, busy)
	if replayed < n/2 || busy == 0 {
		t.Errorf("%d replayed, of which %d met a copy; want at least %d and 1, else the race was not forced", replayed, busy, n/2)
	}
}

func TestPark_HungRedis(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := b.store.Park(t.Context(), letter(t, "u", "d", tasks.Intent{})); err != nil {
		t.Fatal(err)
	}
	b.redis.Freeze()
	defer b.redis.Thaw()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := b.store.Park(ctx, letter(t, "u", "e", tasks.Intent{})); err == nil {
		t.Error("Park returns nil from a Redis that does not answer; want an error")
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Park took %s with a deadline of 200ms; want 2s at most", took)
	}
}
