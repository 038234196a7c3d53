package gate

import (
	"context"
	"time"

	"github.com/kooworker/kooworker/worker/gate/quota"
)

// Fleet is what the gate needs of the workers that call the same API.
type Fleet interface {
	// Exchange tells the fleet of this worker's calls, and asks for tokens. It is
	// called by [Gate.Pace] alone. Exchange bounds its own time.
	Exchange(ctx context.Context, a Ask) (Grant, error)
	// Tell tells the other workers what this one has learned. It is called under the
	// gate's lock: it must neither block nor call the gate.
	Tell(n News)
	// Snapshot returns what is known of the fleet. It is called under the gate's
	// lock, more than once for a call: it must answer from memory. If it cannot
	// learn the present state, it should return the last state that it knew: a
	// worker that wrongly believes to be the only one multiplies the rate.
	Snapshot() Snapshot
}

// Snapshot is what a worker knows of the fleet.
type Snapshot struct {
	Live int // live workers, this one included
	// News is what the workers have told, those of this worker included. Its times
	// are by the local clock. It does not change: a newer snapshot has another one.
	// Nil if nothing is known.
	News *News
}

// Ask is what a worker tells the fleet of its calls, and the tokens that it asks for. A
// token allows one call.
type Ask struct {
	Ceiling float64 // Config.Rate
	Kinds   []Asked // the kind to be served first in front
	// Told is the limit that KooDrive has named for calls of all kinds together; zero for
	// none.
	Told quota.Limit
}

// Asked is an Ask about one kind of calls. The counts are since the last Ask.
type Asked struct {
	Kind    Kind
	Want    int         // tokens
	Epoch   uint64      // of the quota, in which the calls were allowed
	Passed  int         // calls that no quota held back
	Fresh   int         // of these, calls of this epoch
	Refused int         // calls of this epoch that a quota held back
	Told    quota.Limit // zero: KooDrive has named none
}

// Grant is the fleet's answer to an Ask.
type Grant struct {
	Kinds  []Granted // in the order of the Ask's
	Shared float64   // calls a second of all kinds together that KooDrive has named; 0 for no limit
}

// Granted are the tokens for one kind of calls. Each is good from its time on.
type Granted struct {
	Kind    Kind
	N       int
	First   time.Duration // until the time of the first token
	Spacing time.Duration // between two
	Rate    float64       // of the fleet, by the lowest of all limits; 0 for no limit
	Phase   quota.Phase
	Quota   float64 // calls a second that are learnt or told for this kind; 0 for no limit
	Epoch   uint64
	IsTold  bool // KooDrive has named Quota
}

// solo is the fleet of a single worker.
type solo struct{ book *Book }

var _ Fleet = solo{}

// Exchange implements Fleet.
func (s solo) Exchange(_ context.Context, a Ask) (Grant, error) {
	return s.book.Exchange(time.Now(), a), nil
}

// Tell implements Fleet.
func (solo) Tell(News) {}

// Snapshot implements Fleet.
func (solo) Snapshot() Snapshot { return Snapshot{Live: 1} }
