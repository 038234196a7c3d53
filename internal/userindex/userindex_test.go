package userindex_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/internal/userindex"
)

var addCmd = redis.NewScript(userindex.Lua + `
for i = 1, #ARGV, 2 do
	indexUser(KEYS[2], redis.call("XADD", KEYS[1], "*", "u", ARGV[i]), ARGV[i + 1])
end
saveIndex(KEYS[2])
`)

var forgetCmd = redis.NewScript(userindex.ForgetLua + `return forgetReceipts(KEYS[1], KEYS[2], ARGV[1], 2)`)

type bundle struct {
	t   *testing.T
	rdb *redis.Client
	log userindex.Log
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return &bundle{t, redistest.Start(t).Client(), userindex.Log{Stream: "receipts", Index: "users"}}
}

// add adds receipts in one script.
func (b *bundle) add(users ...string) {
	b.t.Helper()
	var args []any
	for _, user := range users {
		args = append(args, user, userindex.Fingerprint(user))
	}
	if err := addCmd.Run(b.t.Context(), b.rdb, []string{b.log.Stream, b.log.Index}, args...).Err(); err != nil && !errors.Is(err, redis.Nil) {
		b.t.Fatal(err)
	}
}

func (b *bundle) find(user string) (found []userindex.Entry) {
	b.t.Helper()
	for e, err := range userindex.Find(b.t.Context(), b.rdb, []userindex.Log{{Stream: "none", Index: "none"}, b.log}, user) {
		if err != nil {
			b.t.Fatal(err)
		}
		if e.Values["u"] != user || e.Log != 1 {
			b.t.Errorf("%+v; want an entry of %s", e, user)
		}
		found = append(found, e)
	}
	return found
}

func (b *bundle) forget(user string) (n int64) {
	b.t.Helper()
	args := []any{userindex.Fingerprint(user)}
	for _, e := range b.find(user) {
		args = append(args, e.ID, e.Offset)
	}
	n, err := forgetCmd.Run(b.t.Context(), b.rdb, []string{b.log.Stream, b.log.Index}, args...).Int64()
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// fill adds n receipts of some users, in scripts of various sizes. It returns how many
// there are of each.
func (b *bundle) fill(n int) map[string]int {
	b.t.Helper()
	want := map[string]int{}
	for i, size := 0, 1; i < n; i, size = i+size, size%301+37 {
		var users []string
		for j := range min(size, n-i) {
			user := fmt.Sprint("user-", (i+j)*(i+j)%97)
			want[user]++
			users = append(users, user)
		}
		b.add(users...)
	}
	return want
}

func TestFind(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 255, 256, 257, 512, 5000} {
		b := setup(t)
		want := b.fill(n)
		want["nobody"] = 0
		for user, count := range want {
			found := b.find(user)
			if len(found) != count {
				t.Errorf("of %d: %s has %d; want %d", n, user, len(found), count)
			}
			if !slices.IsSortedFunc(found, func(a, b userindex.Entry) int { return int(a.Offset - b.Offset) }) {
				t.Errorf("of %d: %s is out of order", n, user)
			}
			for _, e := range found {
				if got := b.rdb.GetRange(t.Context(), b.log.Index, e.Offset, e.Offset+2).Val(); got != userindex.Fingerprint(user) {
					t.Fatalf("of %d: the offset %d has %x; want %x", n, e.Offset, got, userindex.Fingerprint(user))
				}
			}
		}
	}
}

// It reads the index and the blocks where the user is, and not the others.
func TestFind_ReadsFewBlocks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill(50 * 256)
	b.add("rare")
	b.fill(50 * 256)
	before := b.commands()
	if len(b.find("rare")) != 1 {
		t.Fatal("not found")
	}
	if got := b.commands() - before; got > 1 {
		t.Errorf("%d XRANGE; want one", got)
	}
}

func (b *bundle) commands() (n int) {
	b.t.Helper()
	for line := range strings.Lines(b.rdb.Info(b.t.Context(), "commandstats").Val()) {
		if _, err := fmt.Sscanf(line, "cmdstat_xrange:calls=%d,", &n); err == nil {
			return n
		}
	}
	return 0
}

// Whatever a version without the index, or a person, does to the stream: what is there
// is found.
func TestFind_ReceiptsThatTheIndexDoesNotKnow(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(b *bundle){
		"added": func(b *bundle) {
			b.rdb.XAdd(b.t.Context(), &redis.XAddArgs{Stream: b.log.Stream, Values: []string{"u", "old"}})
		},
		"deleted":    func(b *bundle) { b.rdb.XTrimMaxLen(b.t.Context(), b.log.Stream, 800) },
		"index lost": func(b *bundle) { b.rdb.Del(b.t.Context(), b.log.Index) },
		"index cut short": func(b *bundle) {
			b.rdb.Set(b.t.Context(), b.log.Index, b.rdb.GetRange(b.t.Context(), b.log.Index, 0, 1000).Val(), 0)
		},
	} {
		b := setup(t)
		b.fill(1000)
		harm(b)
		b.add("user-1", "old")
		want := map[string]int{}
		for _, m := range b.rdb.XRange(t.Context(), b.log.Stream, "-", "+").Val() {
			want[m.Values["u"].(string)]++
		}
		for user, n := range want {
			if got := len(b.find(user)); got != n {
				t.Errorf("%s: %s has %d; want %d", name, user, got, n)
			}
		}
		// What is forgotten now does not make up for what was unknown.
		if got := b.forget("user-4"); int(got) != want["user-4"] || len(b.find("user-4")) != 0 {
			t.Errorf("%s: forgot %d; want %d", name, got, want["user-4"])
		}
		if got := len(b.find("user-1")); got != want["user-1"] {
			t.Errorf("%s: user-1 has %d then; want %d", name, got, want["user-1"])
		}
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := b.fill(2000)
	before := b.rdb.StrLen(t.Context(), b.log.Index).Val()
	for _, user := range []string{"user-1", "user-0", "user-64"} {
		if got := b.forget(user); int(got) != want[user] || got == 0 {
			t.Errorf("forgot %d of %s; want %d", got, user, want[user])
		}
		if got := b.forget(user); got != 0 {
			t.Errorf("forgot %d more of %s; want none", got, user)
		}
		want[user] = 0
	}
	b.add("user-1")
	want["user-1"]++
	for user, n := range want {
		found := b.find(user)
		if len(found) != n {
			t.Errorf("%s has %d; want %d", user, len(found), n)
		}
		for _, e := range found {
			if e.Offset < 0 {
				t.Fatalf("%+v was found without the index", e)
			}
		}
	}
	text := b.rdb.Get(t.Context(), b.log.Index).Val()
	if len(text) != int(before)+userindex.Width && len(text) != int(before)+userindex.Width+24 {
		t.Errorf("the index has %d bytes; it had %d", len(text), before)
	}
	if strings.Contains(text, userindex.Fingerprint("user-0")) {
		t.Error("the index still has the fingerprint of a user who is forgotten")
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	if got := userindex.Fingerprint("u"); len(got) != userindex.Width || got == userindex.Fingerprint("v") {
		t.Errorf("%x", got)
	}
}
