package simulator

import (
	"fmt"
	"slices"
	"sync"
)

// quotaPlan is the list of quotas, with what each has granted and refused. It has no
// goroutine: what time changes is reckoned up at the next call.
type quotaPlan struct {
	mu     sync.Mutex
	now    int64 // the latest time of a call, in nanoseconds
	quotas []*plannedQuota
	counts map[string]*QuotaCount // by name; they stay when the quotas go
}

// QuotaCount counts what a quota has granted and refused.
type QuotaCount struct {
	Granted int `json:"granted"`
	Refused int `json:"refused"`
	// The calls of strangers, up to now.
	ForeignGranted int `json:"foreignGranted"`
	ForeignRefused int `json:"foreignRefused"`
}

// plannedQuota is a quota in the plan. The plan's mutex guards it.
type plannedQuota struct {
	quota    Quota
	count    *QuotaCount
	start    int64
	counters map[quotaKey]*counter
	pruneAt  int // how many counters there are when the unused ones go
}

// quotaKey tells the counters of a quota apart. A field is empty unless the quota
// counts by it.
type quotaKey struct{ call, user string }

// fewCounters is how many counters a quota has before it looks for unused ones.
const fewCounters = 1024

// add appends a quota. Its time begins now.
func (p *quotaPlan) add(q Quota, now int64) error {
	if err := q.validate(); err != nil {
		return err
	}
	q.Tell, q.Changes = slices.Clone(q.Tell), slices.Clone(q.Changes)
	if q.Policy == "" {
		q.Policy = defaultPolicy
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	q.Name = p.freeName(q)
	if p.counts == nil {
		p.counts = make(map[string]*QuotaCount)
	}
	if p.counts[q.Name] == nil {
		p.counts[q.Name] = new(QuotaCount)
	}
	p.now = max(p.now, now)
	planned := &plannedQuota{
		quota: q, count: p.counts[q.Name], start: p.now, counters: make(map[quotaKey]*counter), pruneAt: fewCounters,
	}
	if !q.PerCall && !q.PerUser {
		// Strangers call whether or not anybody else does.
		planned.counters[quotaKey{}] = newCounter(&planned.quota, planned.count, planned.start)
	}
	p.quotas = append(p.quotas, planned)
	return nil
}

// freeName returns the quota's name, or what it is called without one, with a number
// if another quota in the plan has it.
func (p *quotaPlan) freeName(q Quota) string {
	base := q.Name
	if base == "" {
		base = q.Policy
		if q.Match.Call != "" {
			base += "-" + q.Match.Call
		}
	}
	name := base
	for n := 2; slices.ContainsFunc(p.quotas, func(other *plannedQuota) bool { return other.quota.Name == name }); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name
}

func (p *quotaPlan) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quotas = nil
}

// admit asks every quota that concerns a call, and counts it. The call is refused if
// one of them refuses it: then refusal says so, and nothing is used up. In both
// cases x gets the headers that tell of the quotas.
func (p *quotaPlan) admit(x *exchange) (refusal *reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.quotas) == 0 {
		return nil
	}
	// Of two calls at once, the later one may come here first.
	p.now = max(p.now, x.arrived.UnixNano())
	var (
		asked   []*counter
		refused *counter
	)
	for _, planned := range p.quotas {
		if !planned.quota.Match.matches(x) {
			continue
		}
		c := planned.counter(x, p.now)
		if refused == nil && c.left(p.now) <= 0 {
			refused = c
		}
		asked = append(asked, c)
	}
	if refused == nil {
		for _, c := range asked {
			c.take(p.now)
			c.count.Granted++
		}
	} else {
		refused.count.Refused++
		x.quota = refused.quota.Name
		refusal = refused.refusal(p.now)
	}
	x.told = tellHeaders(asked, x, p.now)
	return refusal
}

// counter returns what counts for a call, brought up to date.
func (p *plannedQuota) counter(x *exchange, now int64) *counter {
	var key quotaKey
	if p.quota.PerCall {
		key.call = x.call
	}
	if p.quota.PerUser {
		key.user = x.user
	}
	c := p.counters[key]
	if c == nil {
		if len(p.counters) >= p.pruneAt {
			p.prune(now)
		}
		c = newCounter(&p.quota, p.count, p.start)
		p.counters[key] = c
	}
	c.advance(now)
	return c
}

// prune forgets the counters that are like new ones: a run may have a million users.
func (p *plannedQuota) prune(now int64) {
	for key, c := range p.counters {
		c.advance(now)
		if c.meter == nil || c.meter.unused(now) {
			delete(p.counters, key)
		}
	}
	p.pruneAt = max(fewCounters, 2*len(p.counters))
}

// catchUp makes the calls of strangers up to now, so that they are counted.
func (p *quotaPlan) catchUp(now int64) {
	p.now = max(p.now, now)
	for _, planned := range p.quotas {
		if planned.quota.Foreign > 0 {
			for _, c := range planned.counters {
				c.advance(p.now)
			}
		}
	}
}

// snapshot returns the counts by name.
func (p *quotaPlan) snapshot(now int64) map[string]QuotaCount {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catchUp(now)
	counts := make(map[string]QuotaCount, len(p.counts))
	for name, count := range p.counts {
		counts[name] = *count
	}
	return counts
}

// shownQuota is a quota as the control face shows it.
type shownQuota struct {
	Text string `json:"quota"`
	Name string `json:"name"`
	QuotaCount
}

// list returns the quotas, for the control face.
func (p *quotaPlan) list(now int64) []shownQuota {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.catchUp(now)
	list := make([]shownQuota, len(p.quotas))
	for i, planned := range p.quotas {
		list[i] = shownQuota{Text: planned.quota.String(), Name: planned.quota.Name, QuotaCount: *planned.count}
	}
	return list
}
