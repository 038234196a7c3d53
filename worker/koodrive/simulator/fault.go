package simulator

import (
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

// The kinds of faults that concern the connection. Every other kind is the name of
// an answer in answers.All, which is then given without doing the work.
const (
	// KindSlow does the work at once and answers after Delay. A caller that gives
	// up early finds the work done when it tries again.
	KindSlow = "slow"
	// KindHang neither works nor answers until the caller gives up, or until the
	// base context of the server ends because it shuts down.
	KindHang = "hang"
	// KindResetBefore resets the connection before the work is done.
	KindResetBefore = "reset-before"
	// KindResetAfter resets the connection after the work is done, without an
	// answer.
	KindResetAfter = "reset-after"
	// KindTruncate does the work, announces the whole answer, and breaks the
	// connection after half of it.
	KindTruncate = "truncate"
	// KindTruncateClean does the work and sends half of the answer as if it were
	// the whole: Content-Length is right, the JSON is not.
	KindTruncateClean = "truncate-clean"
)

// Fault is something that goes wrong. Kind, Status, Delay or Skew must say what.
// The other fields say which requests it concerns and how often. ParseFault
// describes the text form.
type Fault struct {
	// Name is shown in Stats and in the log. Default: the kind, else what the
	// fault does, such as "status-503".
	Name string
	// Match says which requests it concerns. The zero value matches all.
	Match Match
	// Kind is one of the kinds above or the name of an answer. If it is empty, a
	// Status stands for the literal answer below. Without Status the work is done
	// and answered as usual, except for Delay, Skew, Header and RetryAfter.
	Kind string
	// Status, 200 to 599, and Body make up a literal answer, which is given
	// without doing the work. The body is sent as application/json unless Header
	// says otherwise.
	Status int
	Body   string
	// Header is added to the answer, and replaces headers of the same name.
	Header http.Header
	// RetryAfter adds a Retry-After header, in seconds, rounded up.
	RetryAfter time.Duration
	// Delay is the time before the answer, or before the connection breaks.
	Delay time.Duration
	// Times is how many requests the fault applies to before it is used up; 0 is
	// no limit. With PerTarget it is that many for each device or lock, and for
	// each user if a request names neither.
	Times     int
	PerTarget bool
	// Rate is the share of matching requests that the fault applies to, above 0
	// and at most 1; 0 means all. The next faults may apply to the others.
	Rate float64
	// Skew is how far the server's clock is off for the Date header and the check
	// of X-Date.
	Skew time.Duration
}

// Match says which requests a fault concerns. Each empty member matches all.
type Match struct {
	// Call is one of CallUnbind and so on.
	Call string
	// User and Target are the id of the user and that of the device or lock, or
	// a pattern of path.Match for it.
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

// FaultKinds lists every kind: those of the connection, then the named answers.
func FaultKinds() []string {
	kinds := []string{KindSlow, KindHang, KindResetBefore, KindResetAfter, KindTruncate, KindTruncateClean}
	for _, a := range answers.All() {
		kinds = append(kinds, a.Name)
	}
	return kinds
}

// performsCall reports whether the call is carried out in spite of the fault.
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

// fixedReply is the answer that the fault gives without doing the work, or nil.
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

// visibleStatus is the status that the caller sees, 0 if there is no answer.
func (f Fault) visibleStatus(rep *reply) int {
	if rep == nil || f.silent() {
		return 0
	}
	return rep.status
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
