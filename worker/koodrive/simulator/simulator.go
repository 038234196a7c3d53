package simulator

import (
	"context"
	"fmt"
	"maps"
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
	limiter *rate.Limiter          // nil without Config.RateLimit
	quotas  quotaPlan
	plan    *faultPlan
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
		cfg:   cfg,
		plan:  newFaultPlan(cfg.Seed),
		state: &state{accounts: make(map[string]account)},
		log:   newRequestLog(cfg.Seed),
	}
	s.SetToken(cfg.Auth.Token)
	if cfg.RateLimit > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(cfg.RateLimit), int(math.Ceil(cfg.RateLimit)))
	}
	for i, q := range cfg.Quotas {
		if err := s.AddQuota(q); err != nil {
			return nil, fmt.Errorf("quota %d: %w", i+1, err)
		}
	}
	for i, f := range cfg.Faults {
		if err := s.AddFault(f); err != nil {
			return nil, fmt.Errorf("fault %d: %w", i+1, err)
		}
	}
	return s, nil
}

// AddFault appends a fault to the fault plan. Of the faults that match a request,
// have not served all of their Times and are chosen by their Rate, the first applies.
func (s *Simulator) AddFault(f Fault) error {
	if err := s.plan.add(f); err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	return nil
}

// ClearFaults empties the fault plan. Requests that a fault delays stay delayed.
func (s *Simulator) ClearFaults() { s.plan.clear() }

// AddQuota adds a quota. A call must be granted by every quota that concerns it. The
// times of Quota.Changes count from now.
func (s *Simulator) AddQuota(q Quota) error {
	if err := s.quotas.add(q, s.cfg.Clock().UnixNano()); err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	return nil
}

// ClearQuotas removes all quotas. Stats keeps their counts.
func (s *Simulator) ClearQuotas() { s.quotas.clear() }

// SetToken changes the token that is expected from now on, as when tokens
// expire or are rotated. If it is empty, any token will do. It has no effect
// unless callers authorize with a token.
func (s *Simulator) SetToken(token string) { s.token.Store(&token) }

// ServeHTTP answers one request. It panics with http.ErrAbortHandler if a fault
// demands that the caller see a broken connection.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := receive(w, r, s.cfg.Clock())
	s.log.count(func(st *Stats) {
		st.Requests[x.call]++
		st.InFlight++
		st.PeakInFlight = max(st.PeakInFlight, st.InFlight)
	})
	defer s.log.count(func(st *Stats) { st.InFlight-- })

	rep, fault := s.respond(x)
	if !wait(r.Context(), fault) {
		s.log.add(x, nil)
		// The client is gone or the server shuts down. A return would send an
		// empty 200 to a client that still listens.
		panic(http.ErrAbortHandler)
	}
	// The log gets the answer before the client does, so that a client that has the
	// answer finds it in the log.
	s.log.add(x, rep)
	maps.Copy(w.Header(), x.told)
	deliver(w, rep, fault, x.now())
}

// respond returns the answer to a request, nil if none is to be sent, and the
// fault that applies, if any.
func (s *Simulator) respond(x *exchange) (*reply, Fault) {
	if s.limiter != nil && !s.limiter.AllowN(x.arrived, 1) {
		s.log.count(func(st *Stats) { st.Throttled++ })
		rep := gateway(http.StatusTooManyRequests, "APIG.0308", throttledText)
		rep.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(max(1, 1/s.cfg.RateLimit)))))
		return rep, Fault{}
	}
	if refusal := s.quotas.admit(x); refusal != nil {
		s.log.count(func(st *Stats) { st.Throttled++ })
		return refusal, Fault{}
	}
	planned := s.plan.pick(x)
	if planned == nil {
		return s.answer(x), Fault{}
	}
	x.fault, x.skew = planned.Name, planned.fault.Skew
	s.log.count(func(st *Stats) { st.Faults[planned.Name]++ })
	rep := planned.fixedReply
	if planned.fault.performsCall() {
		rep = s.answer(x)
	}
	if planned.fault.silent() {
		rep = nil
	}
	return rep, planned.fault
}

// wait delays the answer for as long as its fault wants, and reports whether the
// answer is still to be given. It holds no lock.
func wait(ctx context.Context, f Fault) bool {
	if f.Kind == KindHang {
		<-ctx.Done()
		return false
	}
	if f.Delay <= 0 {
		return true
	}
	select {
	case <-time.After(f.Delay):
		return true
	case <-ctx.Done():
		return false
	}
}
