package simulator

import (
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

// The kinds of faults that concern the wire. Every other kind is the name of
// an answer in answers.All, which is then given instead of doing the work.
const (
	// KindSlow does the work at once and answers after Delay: a caller who
	// gives up early finds, when he tries again, that it was done.
	KindSlow = "slow"
	// KindHang does nothing and answers nothing until the caller gives up, or
	// the base context of the server that is shutting down ends.
	KindHang = "hang"
	// KindResetBefore resets the connection before the work is done.
	KindResetBefore = "reset-before"
	// KindResetAfter resets the connection after the work is done, without an
	// answer.
	KindResetAfter = "reset-after"
	// KindTruncate does the work, announces the whole answer and breaks the
	// connection after half of it.
	KindTruncate = "truncate"
	// KindTruncateClean does the work and sends half of the answer as if that
	// were all: Content-Length is right, the JSON is not.
	KindTruncateClean = "truncate-clean"
)

// Fault is one line of the fault script. It must say what goes wrong by Kind,
// Status, Delay or Skew; what it says beyond that narrows whom it hits and how
// often. The text form is described at ParseFault.
type Fault struct {
	// Name is shown in Stats and in the log. Default: the kind, else what the
	// fault does, such as "status-503".
	Name string
	// Match says which requests are concerned. The zero value matches all.
	Match Match
	// Kind is one of the kinds above or the name of an answer. Empty with a
	// Status: the literal answer below. Empty without: the work is done and
	// answered as usual, but for Delay, Skew, Header and RetryAfter.
	Kind string
	// Status, 200 to 599, and Body make up a literal answer, given instead of
	// doing the work. The body is sent as application/json unless Header says
	// otherwise.
	Status int
	Body   string
	// Header is added to the answer, and wins over what is there.
	Header http.Header
	// RetryAfter adds a Retry-After header, in seconds, rounded up.
	RetryAfter time.Duration
	// Delay is the time before the answer, or before the connection breaks.
	Delay time.Duration
	// Times is how many requests the fault applies to before it is used up; 0
	// is no limit. With PerTarget that many for each device or lock, and for
	// each user where a request names neither.
	Times     int
	PerTarget bool
	// Rate is the share of matching requests that are hit, above 0 to 1. 0
	// means 1: all of them. The others are left to the faults that follow.
	Rate float64
	// Skew puts the server's clock off by this much, as far as the Date header
	// and the check of X-Date go.
	Skew time.Duration
}

// Match says which requests a fault concerns. Each empty member matches all.
type Match struct {
	// Call is one of CallUnbind and so on.
	Call string
	// User and Target are the user's id, and that of the device or lock:
	// literally, or as a pattern of path.Match.
	User, Target string
}

func (m Match) matches(x *exchange) bool {
	return (m.Call == "" || m.Call == x.call) && matchID(m.User, x.user) && matchID(m.Target, x.target)
}

func matchID(pattern, id string) bool {
	if pattern == "" || pattern == id {
		return true
	}
	ok, err := path.Match(pattern, id)
	return ok && err == nil
}

// FaultKinds lists every kind: those of the wire, then the named answers.
func FaultKinds() []string {
	kinds := []string{KindSlow, KindHang, KindResetBefore, KindResetAfter, KindTruncate, KindTruncateClean}
	for _, a := range answers.All() {
		kinds = append(kinds, a.Name)
	}
	return kinds
}

// performsCall reports whether the fault lets the call be performed.
func (f Fault) performsCall() bool {
	switch f.Kind {
	case "":
		return f.Status == 0
	case KindSlow, KindResetAfter, KindTruncate, KindTruncateClean:
		return true
	default:
		return false
	}
}

// fixedReply is what the fault answers instead of performing the call, or nil.
func (f Fault) fixedReply() *reply {
	if a, ok := answers.ByName(f.Kind); ok {
		return &reply{status: a.Status, header: a.Header, body: []byte(a.Body)}
	}
	if f.Status == 0 {
		return nil
	}
	rep := &reply{status: f.Status, header: make(http.Header), body: []byte(f.Body)}
	if f.Body != "" {
		rep.header.Set("Content-Type", "application/json")
	}
	return rep
}

// silent reports whether the fault sends no answer at all.
func (f Fault) silent() bool {
	return f.Kind == KindHang || f.Kind == KindResetBefore || f.Kind == KindResetAfter
}

func (f Fault) title() string {
	switch {
	case f.Name != "":
		return f.Name
	case f.Kind != "":
		return f.Kind
	case f.Status != 0:
		return "status-" + strconv.Itoa(f.Status)
	case f.Skew != 0:
		return "skew"
	default:
		return KindSlow
	}
}
