package simulator

import (
	"math/rand/v2"
	"sync"
)

// faultPlan is the list of faults, with what is left of each.
type faultPlan struct {
	mu     sync.Mutex
	rand   *rand.Rand
	faults []*plannedFault
}

// plannedFault is a fault in the plan. The fault and its reply do not change; the
// counts belong to the plan's mutex.
type plannedFault struct {
	fault      Fault
	fixedReply *reply
	served     int
	targets    map[target]int // how often each was hit; nil unless PerTarget
}

// target is what PerTarget counts by. A device of another user is another target,
// even if the ids are the same.
type target struct{ user, id string }

func newFaultPlan(seed uint64) *faultPlan {
	return &faultPlan{rand: rand.New(rand.NewPCG(seed, seed))} //nolint:gosec // chance that can be repeated, not a secret
}

func (p *faultPlan) add(f Fault) error {
	if err := f.Validate(); err != nil {
		return err
	}
	f.Header = f.Header.Clone()
	planned := &plannedFault{fault: f, fixedReply: f.fixedReply()}
	if f.PerTarget {
		planned.targets = make(map[target]int)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, planned)
	return nil
}

func (p *faultPlan) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// pick returns the fault that applies to a request and counts it as served. It
// returns nil if none applies.
func (p *faultPlan) pick(x *exchange) *plannedFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if !f.fault.Match.matches(x) || !f.mayApply(x) {
			continue
		}
		if rate := f.fault.Rate; rate > 0 && p.rand.Float64() >= rate {
			continue
		}
		f.served++
		if f.targets != nil {
			f.targets[target{x.user, x.target}]++
		}
		return f
	}
	return nil
}

// mayApply reports whether the fault is not used up for this request.
func (f *plannedFault) mayApply(x *exchange) bool {
	switch {
	case f.fault.Times == 0:
		return true
	case f.targets != nil:
		return f.targets[target{x.user, x.target}] < f.fault.Times
	default:
		return f.served < f.fault.Times
	}
}

// faultView is a fault in the plan as Control shows it.
type faultView struct {
	Fault  Fault  `json:"fault"`
	Name   string `json:"name"`
	Served int    `json:"served"`
}

func (p *faultPlan) list() []faultView {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]faultView, len(p.faults))
	for i, f := range p.faults {
		list[i] = faultView{Fault: f.fault, Name: f.fault.title(), Served: f.served}
	}
	return list
}
