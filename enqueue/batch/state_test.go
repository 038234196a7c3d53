package batch

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// Chunk.State and count read what Redis writes with BITFIELD.
func TestChunk_StateMatchesBitfield(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	rapid.Check(t, func(rt *rapid.T) {
		want := rapid.MapOfN(rapid.Int64Range(0, 600), rapid.Uint8Range(0, 15), 0, 20).Draw(rt, "states")
		if err := rdb.Del(t.Context(), "states").Err(); err != nil {
			rt.Fatal(err)
		}
		var writes, reads []any
		for i, state := range want {
			writes = append(writes, "SET", "u4", fmt.Sprint("#", i), state)
		}
		for i := range int64(700) {
			reads = append(reads, "GET", "u4", fmt.Sprint("#", i))
		}
		if err := rdb.BitField(t.Context(), "states", writes...).Err(); err != nil {
			rt.Fatal(err)
		}
		states := rdb.Get(t.Context(), "states").Val()
		var counts [16]int64
		for i, read := range rdb.BitField(t.Context(), "states", reads...).Val() {
			if got := (Chunk{states: states}).State(i); got != State(want[int64(i)]) || int64(got) != read {
				rt.Fatalf("index %d has the state %d, and Redis says %d; want %d", i, got, read, want[int64(i)])
			}
			counts[want[int64(i)]]++
		}
		got := count(states)
		for state := 1; state < len(got); state++ { // the number of absent states depends on the length of the string
			if got[state] != counts[state] {
				rt.Fatalf("counted %d indexes with state %d; want %d", got[state], state, counts[state])
			}
		}
	})
}

// Redis stores the numbers, and the counters have the names. Neither may change.
func TestState_NumbersAndNames(t *testing.T) {
	t.Parallel()
	for state, name := range map[State]string{
		0: "absent", 1: "queued", 2: "succeeded", 3: "already_gone", 4: "superseded", 5: "dead", 6: "discarded", 7: "duplicate", 8: "rejected",
		9: "cancelled", 10: "state 10", 15: "state 15", 255: "state 255",
	} {
		if got := state.String(); got != name {
			t.Errorf("state %d is called %q; want %q", state, got, name)
		}
	}
	for state, outcome := range map[State]tasks.Outcome{
		Succeeded: tasks.Succeeded, AlreadyGone: tasks.AlreadyGone, Superseded: tasks.Superseded, Dead: tasks.Dead, Discarded: tasks.Discarded, Cancelled: tasks.Cancelled,
	} {
		if got, err := stateOf(outcome); got != state || err != nil {
			t.Errorf("the state of outcome %s is %s, %v; want %s", outcome, got, err, state)
		}
	}
	for _, outcome := range []tasks.Outcome{"", "absent", "queued", "duplicate", "rejected", "state 10", "Dead"} {
		if got, err := stateOf(outcome); err == nil {
			t.Errorf("the state of %q is %s; want an error", outcome, got)
		}
	}
}

// Different items have different digests, however their text is divided.
func TestRollingDigest(t *testing.T) {
	t.Parallel()
	seen := map[Digest]string{}
	for name, feed := range map[string]func(*RollingDigest){
		"nothing":       func(*RollingDigest) {},
		"a, b":          func(r *RollingDigest) { r.AddTask(tasks.DeviceUnbind{UserID: "a", DeviceID: "b"}) },
		"ab, nothing":   func(r *RollingDigest) { r.AddTask(tasks.DeviceUnbind{UserID: "ab"}) },
		"nothing, ab":   func(r *RollingDigest) { r.AddTask(tasks.DeviceUnbind{DeviceID: "ab"}) },
		"a lock":        func(r *RollingDigest) { r.AddTask(tasks.LockRelease{UserID: "a", LockID: "b"}) },
		"a user":        func(r *RollingDigest) { r.AddTask(tasks.UserOffboard{UserID: "a"}) },
		"no task":       func(r *RollingDigest) { r.AddRejected("device:unbind\x00a\x00b") },
		"no text":       func(r *RollingDigest) { r.AddRejected("") },
		"no text twice": func(r *RollingDigest) { r.AddRejected(""); r.AddRejected("") },
		"r":             func(r *RollingDigest) { r.AddRejected("r") },
		"x, y":          func(r *RollingDigest) { r.AddRejected("x"); r.AddRejected("y") },
		"y, x":          func(r *RollingDigest) { r.AddRejected("y"); r.AddRejected("x") },
		"xy":            func(r *RollingDigest) { r.AddRejected("xy") },
	} {
		var one, two RollingDigest
		feed(&one)
		feed(&two)
		if one.Digest() != two.Digest() {
			t.Errorf("%s has two digests; want one", name)
		}
		if other, taken := seen[one.Digest()]; taken {
			t.Errorf("%s has the same digest as %s; want different ones", name, other)
		}
		seen[one.Digest()] = name
	}
}
