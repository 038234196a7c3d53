package worker

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// The log says at once that a queue is paused, and then once a minute; at once if the pause
// changes; and once that it has ended.
func TestPauseWatch_Log(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	core, logs := observer.New(zap.InfoLevel)
	w := newPauseWatch(rdb, zap.New(core))
	now := time.Now()
	w.now = func() time.Time { return now }
	pause := func(reason string) {
		t.Helper()
		if err := pauses.Set(t.Context(), rdb, []string{tasks.QueueUnbind}, pauses.Order{By: "alice@ops-1", Reason: reason, For: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	wantLines := func(when string, level zapcore.Level, n int) {
		t.Helper()
		w.look(t.Context())
		lines := logs.TakeAll()
		if len(lines) != n {
			t.Fatalf("%s: %v; want %d lines", when, lines, n)
		}
		for _, l := range lines {
			if l.Level != level || l.ContextMap()["queue"] != tasks.QueueUnbind {
				t.Errorf("%s: %+v %v; want level %s, of queue unbind", when, l, l.ContextMap(), level)
			}
			if fields := l.ContextMap(); level == zap.WarnLevel && (fields["by"] == nil || fields["until"] == nil || fields["since"] == nil) {
				t.Errorf("%s: %v; want who, since when and until when", when, fields)
			}
		}
	}
	wantLines("nothing is paused", zap.WarnLevel, 0)
	pause("first")
	wantLines("paused", zap.WarnLevel, 1)
	now = now.Add(59 * time.Second)
	wantLines("59 s later", zap.WarnLevel, 0)
	now = now.Add(time.Second)
	wantLines("a minute later", zap.WarnLevel, 1)
	pause("second")
	wantLines("with another reason", zap.WarnLevel, 1)
	rdb.Set(t.Context(), asynqx.PausedKey(tasks.QueueUnbind), time.Now().Unix(), 0)
	wantLines("one lane was paused again elsewhere", zap.WarnLevel, 2)
	if err := pauses.Remove(t.Context(), rdb, []string{tasks.QueueUnbind}); err != nil {
		t.Fatal(err)
	}
	wantLines("resumed", zap.InfoLevel, 1)
	wantLines("after that", zap.InfoLevel, 0)
}

// What was known stays in use while Redis does not answer. Before anything is known, replays
// wait.
func TestPauseWatch_Holds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	w := newPauseWatch(rdb, zap.NewNop())
	payload, err := tasks.Encode(tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}, tasks.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	letter := func(queue string) deadletter.Letter {
		return deadletter.Letter{ID: "1", Kind: tasks.KindDeviceUnbind, Queue: queue, Payload: payload}
	}
	want := func(when, queue string, want bool) {
		t.Helper()
		if why, wait := w.holds(letter(queue)); wait != want || wait && why.RetryAfter <= 0 {
			t.Errorf("%s: %t, %+v for a letter from %s; want %t", when, wait, why, queue, want)
		}
	}
	want("nothing is known", tasks.QueueUnbind, true)
	w.look(t.Context())
	want("nothing is paused", tasks.QueueUnbind, false)
	for _, lane := range []string{"unbind", "unbind-batch-7"} {
		rdb.Set(t.Context(), asynqx.PausedKey(lane), 1, 0)
	}
	w.look(t.Context())
	server.Kill()
	w.look(t.Context())
	want("two lanes are paused", "unbind", true)
	want("two lanes are paused", "unbind-batch-7", true)
	want("two lanes are paused", "unbind-batch-8", false)
	want("two lanes are paused", tasks.QueueDeadLetter, true) // somebody has put it there by hand
	want("two lanes are paused", "unbind-of-a-later-version", true)
}

// Thousands of replays that wait come back a hundred a second, and none later than after half a
// minute.
func TestPauseWatch_NextLook(t *testing.T) {
	t.Parallel()
	w := newPauseWatch(nil, zap.NewNop())
	const n = 20_000
	bySecond := make(map[int]int)
	for range n {
		d := w.nextLook()
		if d < leastPutBack || d > mostPutBack {
			t.Fatalf("a look after %s; want %s to %s", d, leastPutBack, mostPutBack)
		}
		bySecond[int(d.Seconds())]++
	}
	for second, looks := range bySecond {
		if second < 20 && looks > 2*putBacks {
			t.Errorf("%d looks after %d s; want about %d", looks, second, putBacks)
		}
	}
	if w.nextLook() < mostPutBack/2 {
		t.Error("a look soon, although thousands wait")
	}
}
