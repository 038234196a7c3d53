package simulator

import (
	"math/rand/v2"
	"sync"
)

// script is the list of faults, with what each has left.
type script struct {
	mu    sync.Mutex
	rand  *rand.Rand
	lines []*line
}

// line is a fault in the script. The fault and its answer do not change; the
// counts belong to the script's mutex.
type line struct {
	fault   Fault
	literal *reply
	served  int
	targets map[target]int // how often each was hit; nil unless PerTarget
}

// target is what PerTarget counts by. A device of another user is another
// target, even where the ids are alike.
type target struct{ user, id string }

func newScript(seed uint64) *script {
	return &script{rand: rand.New(rand.NewPCG(seed, seed))} //nolint:gosec // chance that can be repeated, not a secret
}

func (s *script) add(f Fault) error {
	if err := f.Validate(); err != nil {
		return err
	}
	f.Header = f.Header.Clone()
	l := &line{fault: f, literal: f.literal()}
	if f.PerTarget {
		l.targets = make(map[target]int)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, l)
	return nil
}

func (s *script) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = nil
}

// pick returns the line that applies to a request and counts it as served, or
// returns nil.
func (s *script) pick(x *exchange) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if !l.fault.Match.matches(x) || !l.left(x) {
			continue
		}
		if rate := l.fault.Rate; rate > 0 && s.rand.Float64() >= rate {
			continue
		}
		l.served++
		if l.targets != nil {
			l.targets[target{x.user, x.target}]++
		}
		return l
	}
	return nil
}

// left reports whether the fault may still apply to this request.
func (l *line) left(x *exchange) bool {
	switch {
	case l.fault.Times == 0:
		return true
	case l.targets != nil:
		return l.targets[target{x.user, x.target}] < l.fault.Times
	default:
		return l.served < l.fault.Times
	}
}

// scripted is a line as the control face shows it.
type scripted struct {
	Fault  Fault  `json:"fault"`
	Name   string `json:"name"`
	Served int    `json:"served"`
}

func (s *script) list() []scripted {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]scripted, len(s.lines))
	for i, l := range s.lines {
		list[i] = scripted{Fault: l.fault, Name: l.fault.title(), Served: l.served}
	}
	return list
}
