package locks_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
)

// No user's locks are listed with those of another, however alike their ids are.
func TestListByUser_AlikeUserIDs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	users := []string{"u", "u!", "u!!", "u~", "U", "uu", "u-1", "u-10", "u-1!", "[u", "(u", "+", "-", "!", "~", strings.Repeat("~", 128)}
	for i, user := range users {
		b.track(t, b.at(tasks.LockID{UserID: user, LockID: "l@102"}, h), b.at(tasks.LockID{UserID: user, LockID: fmt.Sprint("l-", i)}, -h))
	}
	for i, user := range users {
		want := []locks.Lock{
			{Lock: b.lock(tasks.LockID{UserID: user, LockID: fmt.Sprint("l-", i)}, -h)},
			{Lock: b.lock(tasks.LockID{UserID: user, LockID: "l@102"}, h)},
		}
		got, err := b.store.ListByUser(t.Context(), user)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", user, err, diff)
		}
	}
	for _, user := range []string{"", "u u", "u l", strings.Repeat("~", 129), "ü"} {
		_, err := b.store.ListByUser(t.Context(), user)
		if field, ok := errors.AsType[*tasks.FieldError](err); !ok || field.Field != "user_id" {
			t.Errorf("%q: %v; want a FieldError about user_id", user, err)
		}
		if user != "" {
			if got := collect(t, b.store.List(t.Context(), locks.Filter{UserID: user})); len(got) != 0 {
				t.Errorf("%q: %v; want none listed", user, got)
			}
		}
	}
}

// The index by user finds the same locks as reading all.
func TestListByUser_FindsWhatListFinds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	rapid.Check(t, func(rt *rapid.T) {
		if err := b.rdb.FlushDB(t.Context()).Err(); err != nil {
			rt.Fatal(err)
		}
		users := rapid.SliceOfNDistinct(rapid.StringMatching(`[ -~]{1,3}`).Filter(func(s string) bool { return !strings.Contains(s, " ") }), 1, 4, rapid.ID).Draw(rt, "users")
		var all []locks.TrackRequest
		for _, user := range users {
			for _, lock := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-b-]{1,2}(@[0-9])?`), 0, 6, rapid.ID).Draw(rt, "locks") {
				all = append(all, b.at(tasks.LockID{UserID: user, LockID: lock}, time.Duration(rapid.IntRange(-3, 3).Draw(rt, "expiry"))*time.Minute))
			}
		}
		if _, err := b.store.Track(t.Context(), all); err != nil {
			rt.Fatal(err)
		}
		var some []tasks.Lock
		for i, e := range all {
			if i%3 == 0 {
				some = append(some, tasks.Lock{UserID: e.UserID, LockID: e.LockID, ExpiresAt: e.ExpiresAt})
			}
		}
		if err := b.store.MarkSwept(t.Context(), some); err != nil {
			rt.Fatal(err)
		}
		for _, filter := range []locks.Filter{{}, {StaleOnly: true}, {StaleOnly: true, Grace: 90 * time.Second}} {
			everybodys := collect(t, b.store.List(t.Context(), filter))
			for _, user := range users {
				filter.UserID = user
				want := slices.DeleteFunc(slices.Clone(everybodys), func(l locks.Lock) bool { return l.UserID != user })
				got := collect(t, b.store.List(t.Context(), filter))
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
					rt.Fatalf("%+v (-want +got):\n%s", filter, diff)
				}
			}
		}
	})
}

// The locks of a user are read in pages. None is missed or comes twice, whatever
// happens to those before and to the one at which a page ends.
func TestListByUser_Pages(t *testing.T) {
	t.Parallel()
	for _, n := range []int{499, 500, 501, 1000, 1700} {
		b := setup(t)
		entries := make([]locks.TrackRequest, n)
		for i := range entries {
			entries[i] = b.at(tasks.LockID{UserID: "u", LockID: fmt.Sprintf("l-%04d", i)}, time.Duration(i%3-1)*h)
		}
		b.track(t, entries...)
		b.track(t, b.at(tasks.LockID{UserID: "t", LockID: "l"}, h), b.at(tasks.LockID{UserID: "u!", LockID: "l"}, h))
		ids := make(map[tasks.LockID]bool)
		got, err := b.store.ListByUser(t.Context(), "u")
		for _, l := range got {
			ids[l.Lock.ID()] = true
		}
		if len(got) != n || len(ids) != n || err != nil {
			t.Errorf("%d, of which %d are distinct, %v; want %d", len(got), len(ids), err, n)
		}
		if n < 1000 {
			continue
		}
		rdb := b.redis.Client()
		pages := 0
		rdb.AddHook(before{"evalsha", func() error {
			if pages++; pages != 2 {
				return nil
			}
			if _, err := b.store.Forget(t.Context(), []tasks.LockID{entries[499].ID()}); err != nil {
				return err
			}
			_, err := b.store.Renew(t.Context(), []locks.TrackRequest{b.at(entries[0].ID(), 5*h), b.at(entries[n-1].ID(), 5*h)})
			return err
		}})
		got, err = locks.NewStore(rdb).ListByUser(t.Context(), "u")
		if len(got) != n || err != nil || pages < 2 {
			t.Errorf("%d in %d pages, while they change: %v; want %d in 2 or more", len(got), pages, err, n)
		}
		rdb.AddHook(before{"evalsha", func() error { return errors.New("cut off") }})
		if got, err := locks.NewStore(rdb).ListByUser(t.Context(), "u"); err == nil || got != nil {
			t.Errorf("%d, %v; want an error, and no part of the list", len(got), err)
		}
	}
}

// A script that was stopped half-way leaves a name that is in neither set. It is no
// lock, and is removed when its lock is tracked and forgotten.
func TestListByUser_NameWithoutLock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := b.rdb.ZAdd(t.Context(), byUserKey, redis.Z{Member: "u l"}).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := b.store.ListByUser(t.Context(), "u"); len(got) != 0 || err != nil {
		t.Errorf("%v, %v; want none", got, err)
	}
	b.track(t, b.at(tasks.LockID{UserID: "u", LockID: "l"}, h))
	if got, err := b.store.ListByUser(t.Context(), "u"); len(got) != 1 || err != nil {
		t.Errorf("%v, %v; want the lock", got, err)
	}
	if _, err := b.store.Forget(t.Context(), []tasks.LockID{{UserID: "u", LockID: "l"}}); err != nil {
		t.Fatal(err)
	}
	if n := b.rdb.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys; want none", n)
	}
}

// A lock may lack its name, since it was tracked before there were names. Renew
// restores it.
func TestRenew_RestoresMissingName(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.track(t, b.at(id(1), h))
	if err := b.rdb.Del(t.Context(), byUserKey).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Renew(t.Context(), []locks.TrackRequest{b.at(id(1), 2*h)}); err != nil {
		t.Fatal(err)
	}
	if got := b.where(t, id(1)); got != "expiry 2h0m0s" {
		t.Errorf("it is in %q; want it in expiry, with its name", got)
	}
}

func TestListByUser_LiveAndSwept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.track(t, b.at(id(1), h), b.at(id(8), -h), b.at(id(2), h))
	if err := b.store.MarkSwept(t.Context(), []tasks.Lock{b.lock(id(8), -h)}); err != nil {
		t.Fatal(err)
	}
	got, err := b.store.ListByUser(t.Context(), "u-1")
	if diff := cmp.Diff([]locks.Lock{{Lock: b.lock(id(8), -h), Swept: true}, {Lock: b.lock(id(1), h)}}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := b.store.ListByUser(cancelled, "u-1"); err == nil || got != nil {
		t.Errorf("%v, %v; want an error", got, err)
	}
	// A member that another program wrote is an error, and not passed on.
	if err := b.rdb.ZAdd(t.Context(), expiryKey, redis.Z{Score: math.Inf(1), Member: "u-1 odd"}).Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.rdb.ZAdd(t.Context(), byUserKey, redis.Z{Member: "u-1 odd"}).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := b.store.ListByUser(t.Context(), "u-1"); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("%v, %v; want an error that names it", got, err)
	}
}
