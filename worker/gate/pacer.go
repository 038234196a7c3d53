package gate

import (
	"math"
	"time"

	"github.com/kooworker/kooworker/worker/gate/quota"
)

// pacer holds the tokens that the fleet has granted to this worker, and what the
// worker has to tell the fleet. The gate's lock guards it.
type pacer struct {
	ceiling  float64
	shared   float64 // calls a second of all kinds that KooDrive has named; 0 for no limit
	told     quota.Limit
	isKnown  bool // the fleet has answered at least once
	kinds    map[Kind]*pace
	turn     int       // counts asks, so that every kind is first in its turn
	askedAt  time.Time // the latest ask
	heardAt  time.Time // the latest answer
	neededAt time.Time // the first call was wanted, and the fleet had not answered yet
}

// pace is what a pacer holds for one kind of calls.
type pace struct {
	granted Granted // the latest
	tokens  []tokens
	share   float64   // tokens a second that this worker got at its latest asks
	got     float64   // the same, of the last second or so
	aloneAt time.Time // the latest call without a token, while the fleet does not answer

	inRow     int // calls that were refused, and none passed
	refusedAt time.Time

	// Since the latest ask:
	spent                  int // tokens
	passed, fresh, refused int
	told                   quota.Limit
}

// tokens are the tokens of one grant that are left.
type tokens struct {
	n     int
	at    time.Time // of the first
	each  time.Duration
	epoch uint64
}

const (
	// askEvery is the time between two asks while tokens are needed.
	askEvery = 100 * time.Millisecond
	// askSoon is the least time between two asks.
	askSoon = 20 * time.Millisecond
	// tellCountsEvery is the time between two asks while there is no limit.
	tellCountsEvery = 500 * time.Millisecond
	// idleEvery is the time between two asks of a worker that makes no calls.
	idleEvery = 30 * time.Second
	// deaf is after what time without an answer a worker goes on with the share that
	// it had.
	deaf = time.Second
	// manyRefused is how many calls are refused in a row if nothing passes, and
	// refusedPause for how long this worker then waits for the fleet to find out.
	manyRefused  = 8
	refusedPause = 300 * time.Millisecond
	// unknownFor is how long calls wait for the fleet's first answer, unless there is a
	// ceiling. It is longer than a start of Redis' client.
	unknownFor = 2 * time.Second
	// tokenLife is how long after its time a token is good.
	tokenLife = 100 * time.Millisecond
)

func newPacer(ceiling float64, isSolo bool) *pacer {
	p := &pacer{ceiling: ceiling, kinds: make(map[Kind]*pace), isKnown: isSolo && ceiling == 0}
	for _, kind := range Kinds() {
		p.kinds[kind] = &pace{granted: Granted{Kind: kind, Rate: ceiling}}
	}
	return p
}

// wait returns the time until a call of this kind may be made.
func (p *pacer) wait(now time.Time, kind Kind) time.Duration {
	k := p.kinds[kind]
	if !p.isKnown {
		if p.neededAt.IsZero() {
			p.neededAt = now
		}
		if p.ceiling > 0 || now.Sub(p.neededAt) < unknownFor {
			return askEvery
		}
	}
	if pause := k.pause(now); pause > 0 {
		return pause
	}
	if !k.isLimited() {
		return 0
	}
	k.expire(now)
	switch {
	case len(k.tokens) > 0:
		return max(k.tokens[0].at.Sub(now), 0)
	case now.Sub(p.heardAt) > deaf && k.share > 0: // Redis is away
		return max(k.aloneAt.Add(time.Duration(float64(time.Second)/k.share)).Sub(now), 0)
	default:
		return askEvery
	}
}

// take takes the token for a call that wait has allowed. It returns the epoch of the
// call.
func (p *pacer) take(now time.Time, kind Kind) uint64 {
	k := p.kinds[kind]
	k.spent++
	if len(k.tokens) == 0 {
		k.aloneAt = now
		return k.granted.Epoch
	}
	epoch := k.tokens[0].epoch
	k.drop()
	return epoch
}

// drop drops the first token.
func (k *pace) drop() {
	t := &k.tokens[0]
	t.n--
	t.at = t.at.Add(t.each)
	if t.n == 0 {
		k.tokens = k.tokens[1:]
	}
}

// expire drops tokens whose time is long over.
func (k *pace) expire(now time.Time) {
	for len(k.tokens) > 0 && now.Sub(k.tokens[0].at) > tokenLife {
		k.drop()
	}
}

// left returns how many tokens are left.
func (k *pace) left() (n int) {
	for _, t := range k.tokens {
		n += t.n
	}
	return n
}

func (k *pace) isLimited() bool { return k.granted.Rate > 0 }

// hasNews reports whether there is something to tell the fleet.
func (k *pace) hasNews() bool { return k.passed > 0 || k.refused > 0 || k.told.Calls > 0 }

// due returns when the next ask should be made. waiting is how many tasks wait.
func (p *pacer) due(waiting map[Kind]int) time.Time {
	wait := idleEvery
	if !p.isKnown {
		wait = askSoon
	}
	for kind, k := range p.kinds {
		isWanted := waiting[kind] > 0
		switch {
		case !k.isLimited() && k.refused > 0, k.isLimited() && isWanted && len(k.tokens) == 0 && k.spent > 0:
			wait = min(wait, askSoon)
		case k.isLimited() && (isWanted || k.hasNews()):
			wait = min(wait, askEvery)
		case isWanted || k.hasNews():
			wait = min(wait, tellCountsEvery)
		}
	}
	return p.askedAt.Add(wait)
}

// ask returns what to ask the fleet. The counts start again.
func (p *pacer) ask(now time.Time, waiting map[Kind]int) Ask {
	p.askedAt = now
	p.turn++
	out := Ask{Ceiling: p.ceiling, Told: p.told}
	p.told = quota.Limit{}
	kinds := Kinds()
	for i := range kinds {
		kind := kinds[(i+p.turn)%len(kinds)]
		k := p.kinds[kind]
		a := Asked{
			Kind: kind, Epoch: k.granted.Epoch, Passed: k.passed, Fresh: k.fresh, Refused: k.refused, Told: k.told,
		}
		if n := waiting[kind]; n > 0 {
			a.Want = max(n+k.spent*3/2-k.left(), 0)
		}
		k.spent, k.passed, k.fresh, k.refused, k.told = 0, 0, 0, 0, quota.Limit{}
		out.Kinds = append(out.Kinds, a)
	}
	return out
}

// putBack takes back an ask that the fleet did not get.
func (p *pacer) putBack(a Ask) {
	for _, asked := range a.Kinds {
		k := p.kinds[asked.Kind]
		k.passed += asked.Passed
		if asked.Epoch == k.granted.Epoch {
			k.fresh += asked.Fresh
			k.refused += asked.Refused
		}
	}
}

// grant takes the tokens that were granted.
func (p *pacer) grant(now time.Time, grant Grant) {
	elapsed := now.Sub(p.heardAt)
	if p.heardAt.IsZero() {
		elapsed = askEvery
	}
	p.isKnown, p.heardAt, p.shared = true, now, grant.Shared
	for _, g := range grant.Kinds {
		if k := p.kinds[g.Kind]; k != nil {
			k.grant(now, g, elapsed)
		}
	}
}

func (k *pace) grant(now time.Time, g Granted, elapsed time.Duration) {
	if g.Epoch != k.granted.Epoch {
		k.fresh, k.refused = 0, 0 // those of the old epoch
	}
	// Tokens of a rate that was far too high are not used.
	const far = 0.6
	isClosing := g.Phase == quota.Closed && k.granted.Phase != quota.Closed
	if g.Rate == 0 || isClosing || k.isLimited() && g.Rate < far*k.granted.Rate {
		k.tokens = nil
	}
	k.granted = g
	if g.Rate == 0 {
		k.got = 0
		return
	}
	const weight = 0.1
	perSecond := float64(g.N) / max(elapsed.Seconds(), 0.01)
	k.share += weight * (perSecond - k.share)
	k.got += (1 - math.Exp(-elapsed.Seconds())) * (perSecond - k.got)
	if g.N > 0 {
		k.tokens = append(k.tokens, tokens{n: g.N, at: now.Add(g.First), each: g.Spacing, epoch: g.Epoch})
	}
}

// pass counts a call that no quota held back.
func (k *pace) pass(epoch uint64) {
	k.inRow = 0
	k.passed++
	if epoch == k.granted.Epoch {
		k.fresh++
	}
}

// refuse counts a call that was refused, perhaps for the quota.
func (k *pace) refuse(now time.Time, counts bool, epoch uint64) {
	k.inRow++
	k.refusedAt = now
	if counts && epoch == k.granted.Epoch {
		k.refused++
	}
}

// tell takes note of a limit that KooDrive has named.
func (p *pacer) tell(kind Kind, l quota.Limit) {
	switch {
	case l.Calls == 0:
	case l.IsShared():
		p.told = l
	default:
		p.kinds[kind].told = l
	}
}

// pause returns for how long this worker waits because nothing passes. The fleet's probes
// do not wait: it has found out.
func (k *pace) pause(now time.Time) time.Duration {
	if k.inRow < manyRefused || k.granted.Phase == quota.Closed {
		return 0
	}
	return refusedPause - now.Sub(k.refusedAt)
}

// useful returns how many tasks can wait for a call and be called soon, in a fleet of live
// workers. A worker that has asked for few tokens lately can have an equal share of them.
func (k *pace) useful(now time.Time, live int) int {
	const (
		soon  = 2 // seconds
		least = 2
	)
	switch {
	case k.pause(now) > 0, k.granted.Phase == quota.Closed:
		return least
	case !k.isLimited():
		return math.MaxInt
	default:
		return max(least, int(max(k.share, k.granted.Rate/float64(live))*soon))
	}
}
