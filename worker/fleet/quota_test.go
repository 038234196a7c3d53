package fleet

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// exchange makes an exchange about unbinds.
func exchange(t *testing.T, f *Fleet, ceiling float64, a gate.Asked) gate.Granted {
	t.Helper()
	a.Kind = gate.Unbind
	g, err := f.Exchange(t.Context(), gate.Ask{Ceiling: ceiling, Kinds: []gate.Asked{a}})
	if err != nil {
		t.Fatal(err)
	}
	return g.Kinds[0]
}

// However many workers ask, together they get the tokens of the ceiling.
func TestExchange_HandsOutTheCeiling(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var workers []*Fleet
	for range 20 {
		workers = append(workers, New(server.Client(), zap.NewNop()))
	}
	start, n := time.Now(), 0
	for i := 0; time.Since(start) < 2*time.Second; i++ {
		n += exchange(t, workers[i%len(workers)], 50, gate.Asked{Want: 5}).N
	}
	took := time.Since(start) + gate.Horizon
	if want := 50 * took.Seconds(); float64(n) > want+1 || float64(n) < 0.9*want-1 {
		t.Errorf("%d tokens in %s; want %.0f", n, took, want)
	}
}

// Without a refusal there is no limit. After one, all workers get tokens, and one that
// comes later as well.
func TestExchange_LearnsALimit(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, two := New(server.Client(), zap.NewNop()), New(server.Client(), zap.NewNop())
	if g := exchange(t, one, 0, gate.Asked{Want: 10, Passed: 100, Fresh: 100}); g.Rate != 0 || g.N != 0 {
		t.Errorf("%+v; want no limit", g)
	}
	time.Sleep(quota.FirstStepAfter) //nolint:forbidigo // Redis' clock
	exchange(t, one, 0, gate.Asked{Want: 10, Passed: 70, Fresh: 70, Refused: 50})
	redistest.Eventually(t, 5*time.Second, "the other worker gets tokens", func() bool {
		g := exchange(t, two, 0, gate.Asked{Want: 3})
		return g.Rate > 10 && g.N > 0 && g.N <= 3 && g.Epoch == 1
	})
	// A refusal of an earlier epoch says nothing.
	before := exchange(t, one, 0, gate.Asked{})
	time.Sleep(2 * quota.StepEvery) //nolint:forbidigo // Redis' clock
	if g := exchange(t, one, 0, gate.Asked{Epoch: 0, Refused: 1000}); g.Epoch != before.Epoch {
		t.Errorf("%+v after stale refusals; want epoch %d", g, before.Epoch)
	}
}

// A limit that KooDrive has named is taken at once. One that counts calls of all kinds
// limits them together.
func TestExchange_TakesWhatIsTold(t *testing.T) {
	t.Parallel()
	limit := quota.Limit{Calls: 3000, Window: time.Minute}
	for name, ask := range map[string]gate.Ask{
		"of one kind": {Kinds: []gate.Asked{{Kind: gate.Unbind, Told: limit}}},
		"of all":      {Kinds: []gate.Asked{{Kind: gate.Unbind}}, Told: limit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := New(redistest.Start(t).Client(), zap.NewNop())
			if _, err := f.Exchange(t.Context(), ask); err != nil {
				t.Fatal(err)
			}
			g := exchange(t, f, 0, gate.Asked{Want: 1})
			isShared := g.Quota == 0
			if g.Rate < 49 || g.Rate > 50 || isShared != (name == "of all") || g.IsTold == isShared {
				t.Errorf("%+v; want a little less than 50 calls a second, at once", g)
			}
		})
	}
}

// Redis hands out the same tokens as the book in memory, with which the quotas are
// tested in virtual time.
func TestExchange_LikeTheBook(t *testing.T) {
	t.Parallel()
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test
	f := New(redistest.Start(t).Client(), zap.NewNop())
	var book gate.Book
	var latest gate.Grant
	limited, granted := 0, 0
	for i, end := 0, time.Now().Add(4*time.Second); time.Now().Before(end); i++ {
		ask := gate.Ask{Ceiling: []float64{0, 0, 30, 500}[i/40%4]}
		for k, kind := range gate.Kinds() {
			a := gate.Asked{Kind: kind, Want: r.IntN(8), Passed: r.IntN(4), Fresh: r.IntN(3)}
			if len(latest.Kinds) > 0 {
				a.Epoch = latest.Kinds[k].Epoch
			}
			switch r.IntN(30) {
			case 0:
				a.Refused = r.IntN(20)
			case 2:
				a.Told = quota.Limit{Calls: 1 + r.IntN(100), Window: time.Second, Dimension: "api"}
			case 3:
				a.Epoch--
			case 4:
				ask.Told = quota.Limit{Calls: 50 + r.IntN(100), Window: time.Second, Dimension: "user"}
			}
			ask.Kinds = append(ask.Kinds, a)
		}
		now, got, err := f.exchangeAt(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		want := book.Exchange(time.UnixMicro(now), ask)
		if d := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0), cmp.Comparer(func(a, b time.Duration) bool {
			return math.Abs(float64(a-b)) <= float64(time.Microsecond)
		})); d != "" {
			t.Fatalf("exchange %d of %+v (-book +Redis):\n%s", i, ask, d)
		}
		latest = got
		for _, g := range got.Kinds {
			granted += g.N
			if g.Rate > 0 {
				limited++
			}
		}
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond) //nolint:forbidigo // Redis' clock
	}
	if limited < 100 || granted < 100 {
		t.Errorf("%d grants were limited, %d tokens; want many of both", limited, granted)
	}
}

// The keys do not grow with the refusals.
func TestExchange_KeepsOneKey(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := New(server.Client(), zap.NewNop())
	exchange(t, f, 0, gate.Asked{Passed: 1, Refused: 1})
	fields := server.Client().HLen(t.Context(), quotaKey).Val()
	for i := range 1000 {
		exchange(t, f, 0, gate.Asked{Want: 5, Epoch: uint64(i), Passed: 10, Refused: 100, Told: quota.Limit{Calls: 100 + i, Window: time.Second}})
	}
	if n, most := server.Client().HLen(t.Context(), quotaKey).Val(), fields+8; n > most {
		t.Errorf("%d fields; want at most %d", n, most)
	}
	if n := server.Client().DBSize(t.Context()).Val(); n != 1 {
		t.Errorf("%d keys; want 1", n)
	}
	if text := server.Client().HGet(t.Context(), quotaKey, fmt.Sprintf("%s:state", gate.Unbind)).Val(); text == "" || len(text) > 3000 {
		t.Errorf("the state has %d bytes; want few: %s", len(text), text)
	}
	if ttl := server.Client().PTTL(t.Context(), quotaKey).Val(); ttl <= 0 || ttl > quotaTTL {
		t.Errorf("the key is kept for %s; want %s", ttl, quotaTTL)
	}
}
