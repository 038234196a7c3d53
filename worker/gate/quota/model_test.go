package quota

import (
	"cmp"
	"math/rand/v2"
	"time"
)

// A fleet of workers in a model without goroutines, so that many runs take little time.
// It shares no code with the gate. A worker asks for tokens ten times a second, and tells
// then what came of its calls. One tick is a millisecond.
type fleet struct {
	api      func(now int64, r *rand.Rand) bool // whether a call passes
	workers  int
	latency  int64   // ms
	demand   float64 // calls a second that a worker makes without a limit
	strange  float64 // calls a second of others
	told     Limit   // what a refusal tells; zero for nothing
	estimate Estimate
	trace    func(now int64, e *Estimate)

	passed, refused []int // by second
	counts          Counts
	toldAt          int64
	due             float64 // the time of the next token
}

type worker struct {
	tokens                 []token
	results                []result
	asksAt                 int64
	epoch                  uint64
	rate                   float64
	owed                   float64 // calls, while there is no limit
	inRow                  int
	pausedUntil            int64
	passed, fresh, refused int64
}

type token struct {
	at    int64
	epoch uint64
}

type result struct {
	at      int64
	epoch   uint64
	refused bool
}

// run runs the fleet for some seconds.
func (f *fleet) run(seed uint64, seconds int) {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test
	ws := make([]*worker, f.workers)
	for i := range ws {
		ws[i] = &worker{asksAt: int64(r.IntN(100))}
	}
	f.passed, f.refused = make([]int, seconds), make([]int, seconds)
	const start = 1_000_000_000 // a time
	for tick := range int64(seconds) * 1000 {
		now := start + tick
		if r.Float64() < f.strange/1000 {
			f.api(now, r)
		}
		for i := range ws {
			w := ws[(int(tick)+i)%len(ws)]
			f.finish(w, now)
			if now >= w.asksAt+start || w.rate == 0 && w.refused > 0 && now >= w.asksAt+start-480 {
				f.ask(w, now, r)
				w.asksAt = tick + 100
				if w.rate == 0 {
					w.asksAt = tick + 500
				}
			}
			f.call(w, now, tick, r)
		}
	}
}

// finish takes the answers that have come by now.
func (f *fleet) finish(w *worker, now int64) {
	for len(w.results) > 0 && w.results[0].at <= now {
		x := w.results[0]
		w.results = w.results[1:]
		if x.refused {
			if w.inRow++; w.inRow >= 8 {
				w.pausedUntil = now + 300
			}
			if x.epoch == w.epoch {
				w.refused++
			}
			continue
		}
		w.inRow = 0
		w.passed++
		if x.epoch == w.epoch {
			w.fresh++
		}
	}
}

// ask tells the counts, brings the estimate up to date, and takes tokens.
func (f *fleet) ask(w *worker, now int64, r *rand.Rand) {
	e := &f.estimate
	f.counts.Passed += w.passed
	isFirst := false
	if w.epoch == e.Epoch {
		f.counts.Fresh += w.fresh
		f.counts.Refused += w.refused
		isFirst = e.Rate == 0 && w.refused > 0 && now-e.At >= FirstStepAfter.Milliseconds()
		if w.refused > 0 && f.told.Calls > 0 {
			isFirst = isFirst || f.toldAt == 0
			f.toldAt = now
		}
	}
	w.passed, w.fresh, w.refused = 0, 0, 0
	rate := e.Rate
	if rate > 0 {
		f.due = max(f.due, float64(now-20))
		horizon := float64(now + 200)
		n := 0
		most := min(int(rate*0.2/float64(f.workers))+1+r.IntN(2), int(f.demand/10)+1)
		for ; f.due <= horizon && n < most; n++ {
			w.tokens = append(w.tokens, token{int64(f.due), e.Epoch})
			f.due += 1000 / rate
		}
		f.counts.Lacked += int64(f.demand/10) + 1 - int64(n)
	}
	if e.Rate == 0 || e.Phase == Closed && w.rate > 10 || rate < 0.6*w.rate {
		w.tokens = nil
	}
	w.rate, w.epoch = rate, e.Epoch
	if now-e.At >= stepEvery || isFirst {
		if e.Update(now, Report{Counts: f.counts, Told: f.told, ToldAt: f.toldAt}) {
			f.due = float64(now)
		}
		if f.trace != nil {
			f.trace(now, e)
		}
	}
}

// call makes the calls that are due.
func (f *fleet) call(w *worker, now, tick int64, r *rand.Rand) {
	if now < w.pausedUntil {
		w.tokens = nil
		return
	}
	n := 0
	if w.rate == 0 {
		w.owed = min(w.owed+f.demand/1000, f.demand/10)
		n = int(w.owed)
		w.owed -= float64(n)
	}
	for len(w.tokens) > 0 && w.tokens[0].at <= now {
		n++
		w.epoch = max(w.epoch, w.tokens[0].epoch)
		w.tokens = w.tokens[1:]
	}
	for range n {
		ok := f.api(now, r)
		if ok {
			f.passed[tick/1000]++
		} else {
			f.refused[tick/1000]++
		}
		w.results = append(w.results, result{now + f.latency, w.epoch, !ok})
	}
}

// share returns what part of the calls a second passed in the seconds from … to, and
// what part of all was refused.
func (f *fleet) share(perSecond float64, from, to int) (passed, refused float64) {
	p, r := 0.0, 0.0
	for i := from; i < to; i++ {
		p += float64(f.passed[i])
		r += float64(f.refused[i])
	}
	return p / float64(to-from) / perSecond, r / max(p+r, 1)
}

// Some APIs.

func bucket(rate func(second int64) float64, room float64) func(int64, *rand.Rand) bool {
	tokens, at := room, int64(0)
	first := int64(0)
	return func(now int64, _ *rand.Rand) bool {
		if at == 0 {
			at, first = now, now
		}
		perSecond := rate((now - first) / 1000)
		tokens = min(room, tokens+float64(now-at)*perSecond/1000)
		at = now
		if tokens < 1 {
			return false
		}
		tokens--
		return true
	}
}

func steady(rate float64) func(int64) float64 { return func(int64) float64 { return rate } }

func fixedWindow(calls int, length time.Duration, offset int64) func(int64, *rand.Rand) bool {
	window, used := int64(0), 0
	return func(now int64, _ *rand.Rand) bool {
		if x := (now + offset) / length.Milliseconds(); x != window {
			window, used = x, 0
		}
		used++
		return used <= calls
	}
}

func slidingWindow(calls int, length time.Duration) func(int64, *rand.Rand) bool {
	var times []int64
	return func(now int64, _ *rand.Rand) bool {
		for len(times) > 0 && now-times[0] >= length.Milliseconds() {
			times = times[1:]
		}
		if len(times) >= calls {
			return false
		}
		times = append(times, now)
		return true
	}
}

// refusing refuses a share of the calls at any rate, before api is asked.
func refusing(share float64, api func(int64, *rand.Rand) bool) func(int64, *rand.Rand) bool {
	return func(now int64, r *rand.Rand) bool { return r.Float64() >= share && api(now, r) }
}

// refusingFor refuses all calls for some time, a while after the first call.
func refusingFor(after, d time.Duration, api func(int64, *rand.Rand) bool) func(int64, *rand.Rand) bool {
	first := int64(0)
	return func(now int64, r *rand.Rand) bool {
		first = cmp.Or(first, now)
		began := first + after.Milliseconds()
		return (now < began || now >= began+d.Milliseconds()) && api(now, r)
	}
}

func unlimited(int64, *rand.Rand) bool { return true }
