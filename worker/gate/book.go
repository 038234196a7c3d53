package gate

import (
	"math"
	"time"

	"github.com/kooworker/kooworker/worker/gate/quota"
)

const (
	// Horizon is how far ahead tokens are granted.
	Horizon = 200 * time.Millisecond
	// CatchUp is how far back tokens are granted that nobody has asked for.
	CatchUp = 20 * time.Millisecond
)

// Book hands out the tokens of a fleet, in memory. Package fleet does the same in
// Redis. It is not safe for concurrent use.
//
// Every limit is a bucket: it has a time at which its next token is due, and tokens
// are due at evenly spaced times. A call needs a token of each bucket that it falls
// under: the quota of its kind, the quota of all kinds together, and the ceiling.
type Book struct {
	entries map[string]*entry
	due     map[string]float64 // by bucket, in us
}

// entry is what a Book holds for one quota.
type entry struct {
	quota.Estimate
	report    quota.Report
	updatedAt int64 // in ms

	// Of the latest exchange:
	isNew       bool // report.Told is not what was told before
	hasRefusals bool // calls of this epoch were refused
}

// The buckets that are not those of a kind.
const (
	SharedBucket  = "all"
	CeilingBucket = "ceiling"
)

// Exchange answers an Ask.
func (b *Book) Exchange(now time.Time, ask Ask) Grant {
	if b.entries == nil {
		b.entries, b.due = make(map[string]*entry), make(map[string]float64)
	}
	us := float64(now.UnixMicro())
	shared := b.entry(SharedBucket)
	out := Grant{Shared: shared.Rate}
	wanted := 0
	for _, a := range ask.Kinds {
		wanted += a.Want
	}
	for _, a := range ask.Kinds {
		e := b.entry(string(a.Kind))
		g := Granted{Kind: a.Kind, Epoch: e.Epoch, Quota: e.Rate, Phase: e.Phase, IsTold: e.IsTold()}
		b.grant(us, &g, a.Want, wanted, map[string]float64{string(a.Kind): e.Rate, SharedBucket: shared.Rate, CeilingBucket: ask.Ceiling})
		switch lacked := int64(a.Want - g.N); g.Rate {
		case 0:
		case e.Rate:
			e.report.Counts.Lacked += lacked
		case shared.Rate:
			shared.report.Counts.Lacked += lacked
		}
		wanted -= a.Want
		out.Kinds = append(out.Kinds, g)
		e.count(now.UnixMilli(), a)
		shared.report.Counts.Passed += int64(a.Passed)
	}
	shared.tell(now.UnixMilli(), ask.Told)
	for name, e := range b.entries {
		b.update(us, name, e)
	}
	return out
}

func (b *Book) entry(name string) *entry {
	e := b.entries[name]
	if e == nil {
		e = &entry{}
		b.entries[name] = e
	}
	return e
}

// grant hands out tokens of all the buckets with a rate. If the workers want more than
// there are, this one gets its part.
func (b *Book) grant(us float64, g *Granted, want, wanted int, rates map[string]float64) {
	oldest := us - float64(CatchUp.Microseconds())
	start, slowest := oldest, math.Inf(1)
	for name, rate := range rates {
		if rate == 0 {
			continue
		}
		slowest = min(slowest, rate)
		if b.due[name] == 0 {
			b.due[name] = us + 1e6/rate // a bucket begins empty
		}
		start = max(start, b.due[name])
	}
	if math.IsInf(slowest, 1) {
		return
	}
	g.Rate, g.Spacing = slowest, time.Duration(float64(time.Second)/slowest)
	g.First = time.Duration(math.Floor(start-us)) * time.Microsecond
	left := float64(Horizon.Microseconds()) - (start - us)
	if left <= 0 || want == 0 {
		return
	}
	all := math.Floor(left*slowest/1e6) + 1
	g.N = min(want, int(math.Ceil(all*float64(want)/float64(wanted))))
	for name, rate := range rates {
		switch rate {
		case 0:
			continue
		case slowest:
			b.due[name] = start
		default:
			b.due[name] = max(b.due[name], oldest)
		}
		b.due[name] += float64(g.N) * 1e6 / rate
	}
}

// count adds up the calls of a worker.
func (e *entry) count(now int64, a Asked) {
	isFresh := a.Epoch == e.Epoch
	e.hasRefusals = isFresh && a.Refused > 0
	e.report.Counts.Passed += int64(a.Passed)
	if isFresh {
		e.report.Counts.Fresh += int64(a.Fresh)
		e.report.Counts.Refused += int64(a.Refused)
	}
	e.tell(now, a.Told)
}

// tell takes note of a limit that KooDrive has named, if it has.
func (e *entry) tell(now int64, l quota.Limit) {
	if l.Calls > 0 {
		e.isNew = e.isNew || l != e.report.Told
		e.report.Told, e.report.ToldAt = l, now
	}
}

// update brings an estimate up to date when that is due. us is the time in us.
func (b *Book) update(us float64, name string, e *entry) {
	now := int64(us / 1000)
	age := now - e.updatedAt
	isFirst := e.Rate == 0 && e.hasRefusals && age >= quota.FirstStepAfter.Milliseconds()
	isDue := e.isNew || isFirst || age >= quota.StepEvery.Milliseconds()
	e.isNew, e.hasRefusals = false, false
	if !isDue {
		return
	}
	e.updatedAt = now
	if isVoid := e.Update(now, e.report); isVoid {
		b.due[name] = us
	}
}
