package simulator

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Simulator is the KooDrive backup API. It is safe for concurrent use.
type Simulator struct {
	cfg     Config
	token   atomic.Pointer[string] // Config.Auth.Token, until SetToken changes it
	limiter *rate.Limiter
	script  *script
	state   *state
	log     *requestLog
}

var _ http.Handler = (*Simulator)(nil)

// New returns a Simulator without users. The error says which setting is wrong
// and what would be right.
func New(cfg Config) (*Simulator, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("simulator: %w", err)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64() //nolint:gosec // the seed is no secret: Stats shows it
	}
	s := &Simulator{
		cfg:    cfg,
		script: newScript(cfg.Seed),
		state:  newState(),
		log:    newRequestLog(cfg.Seed),
	}
	s.SetToken(cfg.Auth.Token)
	if cfg.RateLimit > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(cfg.RateLimit), int(math.Ceil(cfg.RateLimit)))
	}
	for i, f := range cfg.Faults {
		if err := s.AddFault(f); err != nil {
			return nil, fmt.Errorf("fault %d: %w", i+1, err)
		}
	}
	return s, nil
}

// AddFault appends a fault to the script. Of the faults that match a request,
// are not used up and win their draw, the first applies.
func (s *Simulator) AddFault(f Fault) error {
	if err := s.script.add(f); err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	return nil
}

// ClearFaults empties the script. Requests that a fault is holding up stay held.
func (s *Simulator) ClearFaults() { s.script.clear() }

// SetToken changes the token that is expected from now on, as when tokens
// expire or are rotated. If it is empty, any token will do. It has no effect
// unless callers authorize with a token.
func (s *Simulator) SetToken(token string) { s.token.Store(&token) }

// ServeHTTP answers one request. It panics with http.ErrAbortHandler where a
// fault demands that a caller see a broken connection.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := receive(w, r, s.cfg.Clock())
	s.log.count(func(st *Stats) {
		st.Requests[x.call]++
		st.InFlight++
		st.PeakInFlight = max(st.PeakInFlight, st.InFlight)
	})
	defer s.log.count(func(st *Stats) { st.InFlight-- })

	rep, fault := s.throttle(x), Fault{}
	if rep == nil {
		rep, fault = s.respond(x)
	}
	if !wait(r.Context(), fault) {
		s.log.record(x, nil)
		// The caller is gone or the server shuts down. To return would send
		// an empty 200 to whoever still listens.
		panic(http.ErrAbortHandler)
	}
	// Recorded before it is sent: a caller who has the answer finds it in the log.
	if fault.silent() {
		rep = nil
	}
	s.log.record(x, rep)
	deliver(w, rep, fault.Kind)
}

// throttle answers what exceeds the limit, as the gateway does.
func (s *Simulator) throttle(x *exchange) *reply {
	if s.limiter == nil || s.limiter.AllowN(x.arrived, 1) {
		return nil
	}
	s.log.count(func(st *Stats) { st.Throttled++ })
	rep := gateway(http.StatusTooManyRequests, "APIG.0308", "The throttling threshold has been reached")
	rep.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(max(1, 1/s.cfg.RateLimit)))))
	return rep.dated(x.now())
}

// respond finds the fault that applies, if any, and the answer: the fault's
// own, or what the checks and the work say. A nil answer means that none is
// to be sent.
func (s *Simulator) respond(x *exchange) (*reply, Fault) {
	line := s.script.pick(x)
	if line == nil {
		return s.answer(x).dated(x.now()), Fault{}
	}
	x.fault = line.fault.title()
	x.skew = line.fault.Skew
	s.log.count(func(st *Stats) { st.Faults[x.fault]++ })
	rep := line.literal
	if line.fault.works() {
		rep = s.answer(x)
	}
	return rep.dressed(line.fault).dated(x.now()), line.fault
}

// wait holds an answer up for as long as its fault wants, and reports whether
// it is still to be given. No lock is held meanwhile.
func wait(ctx context.Context, f Fault) bool {
	if f.Kind == KindHang {
		<-ctx.Done()
		return false
	}
	if f.Delay <= 0 {
		return true
	}
	timer := time.NewTimer(f.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
