package gate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// acquire gets a permit, or fails the test.
func (b *bundle) acquire(t *testing.T) *Permit {
	t.Helper()
	p, refusal := b.Acquire(t.Context(), b.unbind())
	if p == nil || refusal != nil {
		t.Fatalf("Acquire: %+v, %+v; want a permit and no refusal", p, refusal)
	}
	return p
}

func TestPermitCancel_GivesBackPlaceAndProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 1})
		b.breakUnbinds(t)
		calls := b.Status().Calls
		probe := b.acquire(t)
		if s := b.Status(); b.unbinds().State != HalfOpen || s.InFlight != 1 {
			t.Errorf("%+v; want half-open, and the probe in flight", s)
		}
		start := time.Now()
		probe.Cancel()
		if s := b.Status(); b.unbinds().State != Open || s.InFlight != 0 || s.Calls != calls || s.Probes != 0 {
			t.Errorf("%+v; want open, nothing in flight, %d calls and no probe", s, calls)
		}
		next := b.acquire(t)
		if waited := time.Since(start); waited != 0 {
			t.Errorf("the next task waited %s for the probe; want none", waited)
		}
		if r := next.Report(t.Context(), Answer{Reason: tasks.OK}); r != nil {
			t.Errorf("%+v; want the answer of the probe to count", r)
		}
		if s := b.Status(); s.Calls != calls+1 || s.Probes != 1 {
			t.Errorf("%+v; want %d calls and one probe", s, calls+1)
		}
	})
}

// What is called on a permit after its end does nothing.
func TestPermit_EndsOnce(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, p *Permit) (calls uint64){
		"with Report": func(t *testing.T, p *Permit) uint64 {
			t.Helper()
			if r := p.Report(t.Context(), Answer{Reason: tasks.OK}); r != nil {
				t.Errorf("%+v; want the answer to count", r)
			}
			return 1
		},
		"with Cancel": func(_ *testing.T, p *Permit) uint64 { p.Cancel(); return 0 },
		"with Close":  func(_ *testing.T, p *Permit) uint64 { p.Close(); return 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fleet := newFakeFleet()
				b := setup(t, Config{MaxInFlight: 1, Fleet: fleet})
				p := b.acquire(t)
				calls := end(t, p)
				b.acquire(t) // keeps a place
				p.Cancel()
				p.Close()
				for _, reason := range []tasks.Reason{tasks.Upstream, tasks.Throttled} {
					if r := p.Report(t.Context(), Answer{Reason: reason}); r != nil {
						t.Errorf("%+v for an answer after the end; want none", r)
					}
				}
				s := b.Status()
				if b.unbinds().State != Closed || s.InFlight != 1 || s.Calls != calls || s.OverQuota != 0 {
					t.Errorf("%+v; want closed, one in flight, %d calls, and no throttling", s, calls)
				}
			})
		})
	}
}

func TestPermitWaited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, Config{MaxInFlight: 1})
		first := b.acquire(t)
		time.AfterFunc(3*time.Second, first.Cancel)
		if second := b.acquire(t); first.Waited() != 0 || second.Waited() != 3*time.Second {
			t.Errorf("waited %s and %s; want 0s and 3s", first.Waited(), second.Waited())
		}
	})
}
