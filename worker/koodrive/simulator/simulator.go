package simulator

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"
)

// Simulator is the KooDrive backup API. It is safe for concurrent use.
type Simulator struct {
	cfg     Config
	auth    authorizer
	tokens  *tokenAuth // nil unless callers authorize with a token
	limiter *rate.Limiter
	plan    *faultPlan
	state   *state
	log     *requestLog
}

var _ http.Handler = (*Simulator)(nil)

// New returns a Simulator without users. An error says which setting is wrong and
// what would be right.
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
		state: newState(),
		log:   newRequestLog(cfg.LogSize, cfg.Seed),
	}
	switch cfg.Auth.Mode {
	case AuthToken:
		s.tokens = newTokenAuth(cfg.Auth)
		s.auth = s.tokens
	case AuthApp:
		s.auth = appAuth{id: cfg.Auth.AppID, secret: cfg.Auth.AppSecret}
	default:
		s.auth = noAuth{}
	}
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

// AddFault appends a fault. Of the faults that match a request, are not used up and
// are chosen by their Rate, the first applies.
func (s *Simulator) AddFault(f Fault) error {
	if err := s.plan.add(f); err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	return nil
}

// ClearFaults removes all faults. A request that a fault delays stays delayed.
func (s *Simulator) ClearFaults() { s.plan.clear() }

// SetToken changes the token that is expected from now on, as if tokens expired or
// were rotated. If it is empty, any token is accepted. It has no effect unless
// callers authorize with a token.
func (s *Simulator) SetToken(token string) {
	if s.tokens != nil {
		s.tokens.set(token)
	}
}

// ServeHTTP answers one request. It panics with http.ErrAbortHandler if a fault
// breaks the connection.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := receive(w, r, s.cfg.Clock())
	s.log.enter(x)
	defer s.log.leave()

	rep, fault := s.throttle(x), Fault{}
	if rep == nil {
		rep, fault = s.respond(x)
	}
	if !wait(r.Context(), fault) {
		s.log.record(x, 0)
		// The caller is gone or the server shuts down. If this returned, a caller
		// that still waits would get an empty 200.
		panic(http.ErrAbortHandler)
	}
	// The log has the request before the caller has the answer.
	s.log.record(x, fault.visibleStatus(rep))
	deliver(w, rep, fault.Kind)
}

// throttle answers a request that exceeds the limit, as the gateway does.
func (s *Simulator) throttle(x *exchange) *reply {
	if s.limiter == nil || s.limiter.AllowN(x.arrived, 1) {
		return nil
	}
	s.log.count(func(st *Stats) { st.Throttled++ })
	rep := gateway(http.StatusTooManyRequests, "APIG.0308", "The throttling threshold has been reached")
	rep.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(max(1, 1/s.cfg.RateLimit)))))
	return rep.dated(x.now())
}

// respond finds the fault that applies, if any, and the answer: that of the fault,
// or that of the checks and the work. If the answer is nil, none is sent.
func (s *Simulator) respond(x *exchange) (*reply, Fault) {
	planned := s.plan.pick(x)
	if planned == nil {
		return s.answer(x).dated(x.now()), Fault{}
	}
	x.fault = planned.fault.title()
	x.skew = planned.fault.Skew
	s.log.count(func(st *Stats) { st.Faults[x.fault]++ })
	rep := planned.fixedReply
	if planned.fault.performsCall() {
		rep = s.answer(x)
	}
	return rep.dressed(planned.fault).dated(x.now()), planned.fault
}

// wait delays an answer as its fault says, and reports whether the answer should
// still be sent. It holds no lock.
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
