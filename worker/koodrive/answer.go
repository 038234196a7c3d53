package koodrive

import (
	"strconv"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Answer is the result of one call. It is an error whose Reason is the metric
// label, the log field and the dead-letter filter alike; see Err.
type Answer struct { //nolint:errname // most answers are not used as an error
	// Reason says what the answer means. It is never empty.
	Reason tasks.Reason
	// Status is the HTTP status, 0 if there was no answer.
	Status int
	// Code is KooDrive's code or the gateway's, as it was sent; "" if there was none.
	Code string
	// Message is what the server or the network said: one line of printable
	// text, at most 200 runes, without secrets. May be empty, and is if the
	// reason is tasks.OK.
	Message string
	// RetryAfter is how long the server asks to wait, at most an hour; 0 if it did
	// not ask.
	RetryAfter time.Duration
	// Limit is the quota that the answer names, whether the call was refused or not.
	Limit Limit
	// NoServerReached says that no server got the request, for a reason that is
	// not the request's: the name, the connection, a proxy, TLS. The next call
	// would have met the same.
	NoServerReached bool
	// Device is the device that an unbind removed, nil if the API did not name it.
	Device *Device
}

var _ error = Answer{}

// Error is one line such as
//
//	forbidden: HTTP 403, code 13000410: no permission
func (a Answer) Error() string {
	if detail := a.Detail(); detail != "" {
		return string(a.Reason) + ": " + detail
	}
	return string(a.Reason)
}

// Detail is Error without the reason, such as
//
//	HTTP 403, code 13000410: no permission
//
// It is "" if there was neither an answer nor a message.
func (a Answer) Detail() string {
	if a.Status == 0 {
		return a.Message
	}
	detail := "HTTP " + strconv.Itoa(a.Status)
	if a.Code != "" {
		detail += ", code " + a.Code
	}
	if a.Message != "" {
		detail += ": " + a.Message
	}
	return detail
}

// Err returns nil if the work is done, by this call or before it. Otherwise it
// returns the answer itself.
func (a Answer) Err() error {
	if a.Reason == tasks.OK || a.Reason == tasks.Gone {
		return nil
	}
	return a
}

// RefusedWithoutCall reports whether the task failed by itself and KooDrive was not
// asked: an id cannot be sent, or there is no credential for the user.
func (a Answer) RefusedWithoutCall() bool {
	return a.Status == 0 && (a.Reason == tasks.Invalid || a.Reason == tasks.Forbidden)
}

// Hint tells an operator what to do next. It is "" if the work is done.
func (a Answer) Hint() string { return a.Reason.Hint() }
