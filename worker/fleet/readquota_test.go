package fleet

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

func TestReadQuota(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	f := New(rdb, zap.NewNop())
	read := func() Quota {
		t.Helper()
		q, err := ReadQuota(t.Context(), rdb)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	none := Quota{Kinds: map[gate.Kind]float64{}}
	if diff := cmp.Diff(none, read()); diff != "" {
		t.Errorf("before any worker (-want +got):\n%s", diff)
	}
	exchange := func(ask gate.Ask) {
		t.Helper()
		for _, kind := range gate.Kinds() {
			ask.Kinds = append(ask.Kinds, gate.Asked{Kind: kind})
		}
		if ask.Told.Calls > 0 {
			ask.Kinds[0].Told = quota.Limit{Calls: 200, Window: time.Second}
		}
		if _, err := f.Exchange(t.Context(), ask); err != nil {
			t.Fatal(err)
		}
	}
	exchange(gate.Ask{})
	if diff := cmp.Diff(none, read()); diff != "" {
		t.Errorf("without a limit (-want +got):\n%s", diff)
	}
	exchange(gate.Ask{Ceiling: 150, Told: quota.Limit{Calls: 300, Window: time.Second, Dimension: "app"}})
	want := Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 198.4}, Shared: 297.6, Ceiling: 150}
	if diff := cmp.Diff(want, read(), cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-6 })); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	exchange(gate.Ask{})
	if got := read(); got.Ceiling != 0 {
		t.Errorf("ceiling %g of a worker without one; want 0", got.Ceiling)
	}

	// What cannot be read is not known, and nor is a limit that is searched for or used up.
	for _, bad := range []map[string]any{
		{"unbind:rate": "fast"}, {"unbind:rate": "-3"}, {"unbind:rate": "inf"}, {"unbind:rate": "nan"}, {"unbind:rate": ""},
		{"unbind:phase": string(quota.Searching)}, {"unbind:phase": string(quota.Closed)}, {"unbind:phase": "a phase of later"},
	} {
		rdb.HSet(t.Context(), quotaKey, "unbind:rate", "198.4", "unbind:phase", string(quota.Following))
		if got := read().Kinds[gate.Unbind]; got != 198.4 {
			t.Fatalf("%g; want 198.4", got)
		}
		rdb.HSet(t.Context(), quotaKey, bad)
		if got, known := read().Kinds[gate.Unbind]; known {
			t.Errorf("%v: %g; want it not known", bad, got)
		}
	}
	rdb.HDel(t.Context(), quotaKey, "unbind:phase", "all:rate")
	if diff := cmp.Diff(none, read()); diff != "" {
		t.Errorf("without the fields (-want +got):\n%s", diff)
	}
	rdb.Del(t.Context(), quotaKey)
	rdb.Set(t.Context(), quotaKey, "not a hash", 0)
	if _, err := ReadQuota(t.Context(), rdb); err == nil {
		t.Error("no error of a key of another type")
	}
}

func TestQuota_Limit(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		quota Quota
		kinds []gate.Kind
		want  float64
	}{
		"nothing is known":         {Quota{}, []gate.Kind{gate.Unbind}, 0},
		"another kind":             {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}}, []gate.Kind{gate.Release}, 0},
		"one kind":                 {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}}, []gate.Kind{gate.Unbind}, 200},
		"two kinds":                {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200, gate.Release: 50}}, []gate.Kind{gate.Unbind, gate.Release}, 250},
		"one of two without limit": {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}}, []gate.Kind{gate.Release, gate.Unbind}, 0},
		"all together":             {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}, Shared: 150}, []gate.Kind{gate.Unbind}, 150},
		"a ceiling":                {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}, Ceiling: 100}, []gate.Kind{gate.Unbind}, 100},
		"a higher ceiling":         {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}, Ceiling: 300}, []gate.Kind{gate.Unbind}, 200},
		"any kind":                 {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}, Shared: 400, Ceiling: 300}, nil, 300},
		"any kind, and no limit":   {Quota{Kinds: map[gate.Kind]float64{gate.Unbind: 200}}, nil, 0},
	} {
		if got := tc.quota.Limit(tc.kinds...); got != tc.want {
			t.Errorf("%s: %g calls a second; want %g", name, got, tc.want)
		}
	}
}

// However much is known, the hash has no more fields than docs/redis-keys.md says.
func TestExchange_FieldsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 60
	rdb := redistest.Start(t).Client()
	f := New(rdb, zap.NewNop())
	for i := range 100 {
		limit := quota.Limit{Calls: 100 + i, Window: time.Second}
		ask := gate.Ask{Ceiling: 50, Told: limit}
		for _, kind := range gate.Kinds() {
			ask.Kinds = append(ask.Kinds, gate.Asked{Kind: kind, Want: 5, Epoch: uint64(i % 3), Passed: 2, Fresh: 1, Refused: 3, Told: limit})
		}
		if _, err := f.Exchange(t.Context(), ask); err != nil {
			t.Fatal(err)
		}
	}
	if n := rdb.HLen(t.Context(), quotaKey).Val(); n < most-10 || n > most {
		t.Errorf("%d fields: %v; want nearly all of the %d", n, rdb.HKeys(t.Context(), quotaKey).Val(), most)
	}
}
