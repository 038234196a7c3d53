package simulator

import (
	"math/rand/v2"
	"sync"
)

// faultPlan is the list of faults, with how often each was served.
type faultPlan struct {
	mu     sync.Mutex
	rand   *rand.Rand
	faults []*plannedFault
}

// plannedFault is a fault in the plan, in JSON as the control face shows it. The
// plan's mutex guards the counts; the rest does not change.
type plannedFault struct {
	Text   string `json:"fault"`
	Name   string `json:"name"`
	Served int    `json:"served"`

	fault      Fault
	fixedReply *reply // shared by the requests that get it
	// used counts the requests that were hit, by target if the fault counts per
	// target, else under the zero target.
	used map[target]int
}

// target is what PerTarget counts by. A device of another user is another
// target, even if the ids are alike.
type target struct{ user, id string }

func newFaultPlan(seed uint64) *faultPlan {
	return &faultPlan{rand: rand.New(rand.NewPCG(seed, seed))} //nolint:gosec // chance that can be repeated, not a secret
}

func (p *faultPlan) add(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	f.Header = f.Header.Clone()
	planned := &plannedFault{Text: f.String(), Name: f.title(), fault: f, fixedReply: f.fixedReply(), used: make(map[target]int)}
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

// pick returns the fault that applies to a request and counts it as served, or
// returns nil.
func (p *faultPlan) pick(x *exchange) *plannedFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, planned := range p.faults {
		f := &planned.fault
		if !f.Match.matches(x) {
			continue
		}
		var counted target
		if f.PerTarget {
			counted = target{x.user, x.target}
		}
		if f.Times > 0 && planned.used[counted] >= f.Times {
			continue
		}
		if f.Rate > 0 && p.rand.Float64() >= f.Rate {
			continue
		}
		planned.Served++
		planned.used[counted]++
		return planned
	}
	return nil
}

// list returns copies of the planned faults, for the control face.
func (p *faultPlan) list() []plannedFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]plannedFault, len(p.faults))
	for i, planned := range p.faults {
		list[i] = *planned
	}
	return list
}
