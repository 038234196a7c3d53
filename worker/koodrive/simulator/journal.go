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
	// Answers counts by HTTP status; 0 stands for requests that ended without
	// an answer.
	Answers map[int]int `json:"answers"`
	// Faults counts by the fault's name. A fault that was taken out of the
	// script keeps its count.
	Faults map[string]int `json:"faults"`

	// Work that was done on request, whether or not the answer arrived.
	Unbound  int `json:"unbound"`
	Released int `json:"released"`
	Bound    int `json:"bound"`
	Locked   int `json:"locked"`
	Renewed  int `json:"renewed"`

	// AuthRefusals counts what failed the checks of Authorization and X-Date.
	// Faults that answer alike are not among them.
	AuthRefusals int `json:"authRefusals"`
	// Throttled counts what exceeded Config.RateLimit.
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

// journal is the memory of what happened. It has a lock of its own, so that
// reading statistics holds up no request for longer than a copy takes.
type journal struct {
	mu    sync.Mutex
	stats Stats
	size  int
	ring  []Entry
	next  int // where the next entry goes once the ring is full
}

func newJournal(size int, seed uint64) *journal {
	return &journal{size: size, stats: Stats{
		Requests: make(map[string]int), Answers: make(map[int]int), Faults: make(map[string]int), Seed: seed,
	}}
}

func (j *journal) enter(x *exchange) {
	j.count(func(st *Stats) {
		st.Requests[x.call]++
		st.InFlight++
		st.PeakInFlight = max(st.PeakInFlight, st.InFlight)
	})
}

func (j *journal) leave() { j.count(func(st *Stats) { st.InFlight-- }) }

func (j *journal) count(change func(*Stats)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(&j.stats)
}

func (j *journal) record(x *exchange, status int) {
	e := Entry{
		At: x.arrived, Method: clip(x.Method), Path: clip(x.URL.EscapedPath()), Call: x.call, UserID: clip(x.user),
		XDate: clip(x.Header.Get("X-Date")), Target: clip(x.target), Fault: x.fault, Status: status,
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.Answers[status]++
	if len(j.ring) < j.size {
		j.ring = append(j.ring, e)
		return
	}
	j.ring[j.next] = e
	j.next = (j.next + 1) % j.size
}

func (j *journal) snapshot() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.stats
	st.Requests, st.Answers, st.Faults = maps.Clone(st.Requests), maps.Clone(st.Answers), maps.Clone(st.Faults)
	return st
}

func (j *journal) last(n int) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := append(append(make([]Entry, 0, len(j.ring)), j.ring[j.next:]...), j.ring[:j.next]...)
	if n > 0 && n < len(all) {
		all = all[len(all)-n:]
	}
	return all
}

// clip keeps the ring small whatever a caller sends.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
