package simulator

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stats counts what has happened since the start.
type Stats struct {
	// Requests counts by call: CallUnbind and so on.
	Requests map[string]int `json:"requests"`
	// Answers counts by HTTP status; 0 stands for requests that ended without
	// an answer.
	Answers map[int]int `json:"answers"`
	// Faults counts by the fault's name. A fault that was removed from the plan
	// keeps its count.
	Faults map[string]int `json:"faults"`

	// Calls that were performed, whether or not the answer arrived.
	Unbound  int `json:"unbound"`
	Released int `json:"released"`
	Bound    int `json:"bound"`
	Locked   int `json:"locked"`
	Renewed  int `json:"renewed"`

	// AuthRefusals counts what failed the checks of Authorization and X-Date.
	// It does not count faults that give the same answers.
	AuthRefusals int `json:"authRefusals"`
	// Throttled counts what exceeded Config.RateLimit or a quota.
	Throttled int `json:"throttled"`
	// Quotas counts by the quota's name. A quota that was removed keeps its count.
	Quotas map[string]QuotaCount `json:"quotas"`
	// InFlight is the number of requests in flight, and PeakInFlight the highest
	// that it ever was.
	InFlight     int `json:"inFlight"`
	PeakInFlight int `json:"peakInFlight"`
	// Seed, given to Config.Seed, repeats the run's random choices.
	Seed uint64 `json:"seed"`
}

// Entry is a request in the log. It never holds a credential: it keeps neither
// the Authorization header nor a body nor a query.
type Entry struct {
	At     time.Time `json:"at"` // by the server's clock
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Call   string    `json:"call"`
	UserID string    `json:"userId"`
	XDate  string    `json:"xDate"`
	Target string    `json:"target,omitempty"` // the device or lock that was named
	Fault  string    `json:"fault,omitempty"`  // the name of the fault that applied
	Quota  string    `json:"quota,omitempty"`  // the name of the quota that refused it
	Status int       `json:"status"`           // 0: no answer was given
}

// logSize is how many of the last requests Simulator.Log can show.
const logSize = 1000

// requestLog counts requests and remembers the last ones. It has a mutex of its
// own, so that reading statistics delays a request by no more than a copy takes.
type requestLog struct {
	mu      sync.Mutex
	stats   Stats
	entries []Entry // oldest first; at most twice logSize
}

func newRequestLog(seed uint64) *requestLog {
	return &requestLog{entries: []Entry{}, stats: Stats{
		Requests: make(map[string]int), Answers: make(map[int]int), Faults: make(map[string]int), Seed: seed,
	}}
}

func (l *requestLog) count(change func(*Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.stats)
}

// add logs a request with its answer, which is nil if none was given.
func (l *requestLog) add(x *exchange, rep *reply) {
	e := Entry{
		At: x.arrived, Method: clip(x.Method), Path: clip(x.URL.EscapedPath()), Call: x.call, UserID: clip(x.user),
		XDate: clip(x.Header.Get("X-Date")), Target: clip(x.target), Fault: x.fault, Quota: x.quota,
	}
	if rep != nil {
		e.Status = rep.status
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Answers[e.Status]++
	// Half of the entries go at a time, so that few requests pay for the move.
	if len(l.entries) == 2*logSize {
		l.entries = slices.Delete(l.entries, 0, logSize)
	}
	l.entries = append(l.entries, e)
}

func (l *requestLog) snapshot() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.stats
	st.Requests, st.Answers, st.Faults = maps.Clone(st.Requests), maps.Clone(st.Answers), maps.Clone(st.Faults)
	return st
}

// last returns the last n entries, or all logSize of them if n is not positive.
func (l *requestLog) last(n int) []Entry {
	if n <= 0 || n > logSize {
		n = logSize
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries[max(0, len(l.entries)-n):])
}

// clip keeps the log small whatever a caller sends.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
