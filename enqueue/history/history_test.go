package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type bundle struct {
	t     testing.TB
	rdb   redis.UniversalClient
	store *Store
	now   time.Time
}

func newBundle(tb testing.TB, rdb redis.UniversalClient) *bundle {
	tb.Helper()
	b := &bundle{t: tb, rdb: rdb, store: NewStore(rdb), now: time.Now()}
	b.store.now = func() time.Time { return b.now }
	return b
}

func receipt(user, device string) tasks.Receipt {
	return tasks.Receipt{
		Kind: tasks.KindDeviceUnbind, UserID: user, Target: device, Outcome: tasks.Succeeded, Reason: tasks.OK, Attempts: 1, Source: tasks.FromSingle,
	}
}

func (b *bundle) record(receipts ...tasks.Receipt) {
	b.t.Helper()
	if err := b.store.Record(b.t.Context(), receipts, DefaultKeep); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) ofUser(user string) (all []tasks.Receipt) {
	b.t.Helper()
	for r, err := range b.store.OfUser(b.t.Context(), user) {
		if err != nil {
			b.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func targets(receipts []tasks.Receipt) (all []string) {
	for _, r := range receipts {
		all = append(all, r.Target)
	}
	return all
}

func TestOfUser(t *testing.T) {
	t.Parallel()
	b := newBundle(t, redistest.Start(t).Client())
	full := receipt("u1", "d1")
	full.Outcome, full.Reason, full.Attempts, full.Source = tasks.Cancelled, "cancelled: wrong file", 3, tasks.FromDeadLetter
	full.Device = &tasks.Device{DeviceID: "d1", DeviceName: "a\tname \"with\" everything\n", CreateTime: time.UnixMilli(1_700_000_000_000).UTC()}
	b.record(full, receipt("u2", "d2"), receipt("u1", "d3"))
	b.now = b.now.AddDate(0, 0, 3)
	b.record(receipt("u1", "d4"))
	got := b.ofUser("u1")
	if diff := cmp.Diff([]string{"d1", "d3", "d4"}, targets(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if age := time.Since(got[0].At); age < 0 || age > time.Minute {
		t.Errorf("it was recorded %s ago; want just now", age)
	}
	full.At = got[0].At
	if diff := cmp.Diff(full, got[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := b.ofUser("u3"); got != nil {
		t.Errorf("%v; want none", got)
	}
}

// A receipt has a bound, whatever KooDrive says of the device.
func TestRecord_LongDevice(t *testing.T) {
	t.Parallel()
	b := newBundle(t, redistest.Start(t).Client())
	long := receipt(strings.Repeat("u", 128), strings.Repeat("d", 256))
	long.Device = &tasks.Device{DeviceName: strings.Repeat("n", mostDevice)}
	b.record(long)
	if got := b.ofUser(long.UserID); len(got) != 1 || got[0].Device != nil {
		t.Errorf("%+v; want the receipt without its device", got)
	}
}

// The receipts of a day expire together, no earlier than each was kept.
func TestRecord_Expiry(t *testing.T) {
	t.Parallel()
	b := newBundle(t, redistest.Start(t).Client())
	b.now = b.now.UTC().Truncate(day).Add(day - time.Second)
	for _, keep := range []time.Duration{MinKeep, DefaultKeep, MaxKeep} {
		if err := b.store.Record(t.Context(), []tasks.Receipt{receipt("u", "d")}, keep); err != nil {
			t.Fatal(err)
		}
		keys := b.rdb.Keys(t.Context(), "*").Val()
		if len(keys) != 2 {
			t.Fatalf("%q; want two keys", keys)
		}
		for _, key := range keys {
			end := time.UnixMilli(b.rdb.Do(t.Context(), "pexpiretime", key).Val().(int64))
			if got := end.Sub(b.now); got < keep || got > keep+day {
				t.Errorf("%s expires in %s; want %s, and a day at most", key, got, keep)
			}
		}
	}
	if err := b.store.Record(t.Context(), []tasks.Receipt{receipt("u", "off")}, Off); err != nil || len(b.ofUser("u")) != 3 {
		t.Errorf("%v, %d receipts; want none that was switched off", err, len(b.ofUser("u")))
	}
	for _, key := range b.rdb.Keys(t.Context(), "*").Val() {
		b.rdb.PExpire(t.Context(), key, time.Millisecond)
	}
	redistest.Eventually(t, 5*time.Second, "they have expired", func() bool { return len(b.ofUser("u")) == 0 })
	if got := b.rdb.Keys(t.Context(), "*").Val(); len(got) != 0 {
		t.Errorf("%q are left; want none", got)
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	b := newBundle(t, redistest.Start(t).Client())
	if got, err := b.store.Keep(t.Context()); got != DefaultKeep || err != nil {
		t.Errorf("%s, %v; want the default", got, err)
	}
	for _, want := range []time.Duration{time.Hour, Off} {
		if err := b.store.SetKeep(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if got, err := b.store.Keep(t.Context()); got != want || err != nil {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	for keep, ok := range map[time.Duration]bool{Off: true, time.Second: false, MinKeep: true, MaxKeep: true, MaxKeep + 1: false, -time.Hour: false} {
		if err := CheckKeep(keep); (err == nil) != ok {
			t.Errorf("%s: %v; want it to be valid: %t", keep, err, ok)
		}
	}
}

func TestForgetUser(t *testing.T) {
	t.Parallel()
	for _, inCluster := range []bool{false, true} {
		var rdb redis.UniversalClient
		if inCluster {
			rdb = redistest.StartCluster(t, 1, false).Client()
		} else {
			rdb = redistest.Start(t).Client()
		}
		b := newBundle(t, rdb)
		for range 3 { // days
			for i := range 700 {
				b.record(receipt(fmt.Sprint("u", i%350), fmt.Sprint("d", i)))
			}
			b.now = b.now.Add(day)
		}
		b.now = b.now.Add(-day)
		if got := b.ofUser("u7"); len(got) != 6 {
			t.Fatalf("%d receipts; want 6", len(got))
		}
		for _, want := range []int64{6, 0} {
			if got, err := b.store.ForgetUser(t.Context(), "u7"); got != want || err != nil {
				t.Errorf("forgot %d, %v; want %d", got, err, want)
			}
		}
		if got := b.ofUser("u7"); got != nil {
			t.Errorf("%v; want none", got)
		}
		b.record(receipt("u7", "again"))
		if got := targets(b.ofUser("u7")); !slices.Equal(got, []string{"again"}) {
			t.Errorf("%v; want the new one", got)
		}
		for i := range 350 {
			if got := b.ofUser(fmt.Sprint("u", i)); i != 7 && len(got) != 6 {
				t.Fatalf("user %d has %d receipts; want 6", i, len(got))
			}
		}
	}
}

// If somebody has removed the index, or a part of it, nothing is hidden.
func TestOfUser_WithoutIndex(t *testing.T) {
	t.Parallel()
	b := newBundle(t, redistest.Start(t).Client())
	b.record(receipt("u", "d1"), receipt("v", "d2"), receipt("u", "d3"))
	b.rdb.Set(t.Context(), keysOf(b.now).users, "xyz", 0)
	if got := targets(b.ofUser("u")); !slices.Equal(got, []string{"d1", "d3"}) {
		t.Errorf("%v; want both", got)
	}
	if n, err := b.store.ForgetUser(t.Context(), "u"); n != 2 || err != nil || len(b.ofUser("u")) != 0 {
		t.Errorf("forgot %d, %v; want 2", n, err)
	}
}

func TestRecord_TooMany(t *testing.T) {
	t.Parallel()
	b := newBundle(t, redistest.Start(t).Client())
	if err := b.store.Record(t.Context(), make([]tasks.Receipt, MaxTogether+1), DefaultKeep); err == nil {
		t.Error("no error")
	}
	b.record(slices.Repeat([]tasks.Receipt{receipt("u", "d")}, MaxTogether)...)
	if got := len(b.ofUser("u")); got != MaxTogether {
		t.Errorf("%d; want %d", got, MaxTogether)
	}
}

// What receipts cost, and how long a user is looked for among them.
func TestStore_Memory(t *testing.T) {
	t.Parallel()
	b := newBundle(t, redistest.Start(t).Client())
	const n, each = 200_000, 500
	began, page := time.Now(), make([]tasks.Receipt, each)
	for i := 0; i < n; i += each {
		for j := range page {
			page[j] = receipt(fmt.Sprintf("user-%08d", (i+j)/3), fmt.Sprintf("device-%08d", i+j))
		}
		b.record(page...)
	}
	k := keysOf(b.now)
	took := time.Since(began)
	list, index := b.rdb.MemoryUsage(t.Context(), k.receipts, 0).Val(), b.rdb.MemoryUsage(t.Context(), k.users).Val()
	began = time.Now()
	if got := len(b.ofUser("user-00012345")); got != 3 {
		t.Errorf("found %d; want 3", got)
	}
	t.Logf("%.1f bytes for a receipt and %.2f for its entry in the index; recording takes %s each; a user was found in %s",
		float64(list)/n, float64(index)/n, took/n, time.Since(began))
	if list > 150*n || index > 8*n {
		t.Errorf("%d and %d bytes; want at most 150 and 8 each", list, index)
	}
}
