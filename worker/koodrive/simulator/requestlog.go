package simulator

import (
	"maps"
	"strings"
	"sync"
	"time"
)

// Stats counts what has happened since the start.
type Stats struct {
	// Requests counts by call: CallUnbind and so on.
	Requests map[string]int `json:"requests"`
	// Answers counts by HTTP status; 0 is for requests that ended without an
	// answer.
	Answers map[int]int `json:"answers"`
	// Faults counts by the fault's name. A fault that was removed keeps its
	// count.
	Faults map[string]int `json:"faults"`

	// Work that was done on request, whether or not the answer arrived.
	Unbound  int `json:"unbound"`
	Released int `json:"released"`
	Bound    int `json:"bound"`
	Locked   int `json:"locked"`
	Renewed  int `json:"renewed"`

	// AuthRefusals counts the requests that failed the checks of Authorization and
	// X-Date. Faults with the same answer are not counted.
	AuthRefusals int `json:"authRefusals"`
	// Throttled counts the requests that exceeded Config.RateLimit.
	Throttled int `json:"throttled"`
	// InFlight is the number of requests under way, and PeakInFlight the
	// highest that it ever was.
	InFlight     int `json:"inFlight"`
	PeakInFlight int `json:"peakInFlight"`
	// Seed repeats the run's random choices, given to Config.Seed.
	Seed uint64 `json:"seed"`
}

// Entry is a request in the log. It never holds a credential: neither the
// Authorization header nor a body nor a query is kept.
type Entry struct {
	At     time.Time `json:"at"` // by the server's clock
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Call   string    `json:"call"`
	UserID string    `json:"userId"`
	XDate  string    `json:"xDate"`
	Target string    `json:"target,omitempty"` // the device or lock that was named
	Fault  string    `json:"fault,omitempty"`  // the name of the fault that applied
	Status int       `json:"status"`           // 0: no answer was given
}

// requestLog remembers what happened. It has a lock of its own, so that reading
// the statistics delays a request no longer than a copy takes.
type requestLog struct {
	mu    sync.Mutex
	stats Stats
	size  int
	ring  []Entry
	next  int // where the next entry goes once the ring is full
}

func newRequestLog(size int, seed uint64) *requestLog {
	return &requestLog{size: size, stats: Stats{
		Requests: make(map[string]int), Answers: make(map[int]int), Faults: make(map[string]int), Seed: seed,
	}}
}

func (l *requestLog) enter(x *exchange) {
	l.count(func(st *Stats) {
		st.Requests[x.call]++
		st.InFlight++
		st.PeakInFlight = max(st.PeakInFlight, st.InFlight)
	})
}

func (l *requestLog) leave() { l.count(func(st *Stats) { st.InFlight-- }) }

func (l *requestLog) count(change func(*Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.stats)
}

func (l *requestLog) record(x *exchange, status int) {
	e := Entry{
		At: x.arrived, Method: clip(x.Method), Path: clip(x.URL.EscapedPath()), Call: x.call, UserID: clip(x.user),
		XDate: clip(x.Header.Get("X-Date")), Target: clip(x.target), Fault: x.fault, Status: status,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Answers[status]++
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
		return
	}
	l.ring[l.next] = e
	l.next = (l.next + 1) % l.size
}

func (l *requestLog) snapshot() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.stats
	st.Requests, st.Answers, st.Faults = maps.Clone(st.Requests), maps.Clone(st.Answers), maps.Clone(st.Faults)
	return st
}

func (l *requestLog) last(n int) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := append(append(make([]Entry, 0, len(l.ring)), l.ring[l.next:]...), l.ring[:l.next]...)
	if n > 0 && n < len(all) {
		all = all[len(all)-n:]
	}
	return all
}

// clip shortens what a caller sends, so that the ring stays small.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
