package simulator

import (
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

// The kinds of faults that concern the wire. Every other kind is the name of
// an answer in answers.All; that answer is given and the call is not performed.
const (
	// KindSlow performs the call at once and answers after Delay: a caller who
	// gives up early and tries again finds that the call was performed.
	KindSlow = "slow"
	// KindHang does nothing and answers nothing until the caller gives up, or
	// until the base context of a server that shuts down ends.
	KindHang = "hang"
	// KindResetBefore resets the connection and does not perform the call.
	KindResetBefore = "reset-before"
	// KindResetAfter performs the call and resets the connection without an answer.
	KindResetAfter = "reset-after"
	// KindTruncate performs the call, announces the whole answer and breaks the
	// connection after half of it.
	KindTruncate = "truncate"
	// KindTruncateClean performs the call and sends half of the answer as if it
	// were the whole: Content-Length is right, the JSON is not.
	KindTruncateClean = "truncate-clean"
)

// Fault is one entry of the fault plan. It must say what goes wrong by Kind,
// Status, Delay or Skew. Its other fields say whom it hits and how often.
// ParseFault describes the text form.
type Fault struct {
	// Name is shown in Stats and in the log. Default: the kind, else what the
	// fault does, such as "status-503".
	Name string
	// Match says which requests are concerned. The zero value matches all.
	Match Match
	// Kind is one of the kinds above or the name of an answer. If it is empty
	// and there is a Status, the fault gives the fixed answer below. If both are
	// empty, the call is performed and answered as usual, but for Delay, Skew,
	// Header and RetryAfter.
	Kind string
	// Status, 200 to 599, and Body make up a fixed answer, given instead of
	// performing the call. The body is sent as application/json unless Header
	// says otherwise.
	Status int
	Body   string
	// Header is added to the answer, and replaces headers of the same name.
	Header http.Header
	// RetryAfter adds a Retry-After header, in seconds, rounded up.
	RetryAfter time.Duration
	// Delay is the time before the answer, or before the connection breaks.
	Delay time.Duration
	// Times is how many requests the fault applies to; 0 is no limit. With
	// PerTarget it applies to that many for each device or lock, and for each
	// user if a request names neither.
	Times     int
	PerTarget bool
	// Rate is the share of matching requests that are hit, above 0 to 1. 0
	// means 1: all of them. The faults that follow may hit the others.
	Rate float64
	// Skew is added to the server's clock for the Date header and the check of
	// X-Date.
	Skew time.Duration
}

// Match says which requests a fault concerns. Each empty field matches all.
type Match struct {
	// Call is one of CallUnbind and so on.
	Call string
	// User is the user's id, and Target that of the device or lock. Both are
	// compared literally, and as patterns of path.Match.
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

// FaultKinds lists every kind: those of the wire, then the names of answers.
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
