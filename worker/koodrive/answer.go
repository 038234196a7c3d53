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

// Hint tells an operator what to do next. It is "" if there is nothing to do but
// to wait.
func (a Answer) Hint() string { return hints[a.Reason] }

var hints = map[tasks.Reason]string{
	tasks.Misrouted: "the answer is not KooDrive's: check the KooDrive URL (scheme, host, port and prefix, " +
		"without " + apiPath + ") and any proxy or firewall on the way, and ask the gateway's owner whether the API is published " +
		"there, and open to this credential and address",
	tasks.Unauthorized: "no credential was accepted: check the token, its file or broker, or the app id and secret, and " +
		"the token format; then whether the clocks differ by more than 15 minutes",
	tasks.Forbidden: "the credential is valid but not for this user: check that the user id is KooDrive's and that the " +
		"token or app may act for it; the broker may have no token for it",
	tasks.Network: "no connection, or it broke: check name resolution, firewall, proxy settings (HTTPS_PROXY, NO_PROXY) and " +
		"the server's certificate from this very machine",
	tasks.TimedOut:  "no answer in time: if this continues, check the network path and raise the call timeout",
	tasks.Throttled: "the workers call at the rate that KooDrive allows; if that is too slow, have the quota raised",
	tasks.Invalid:   "KooDrive refuses these parameters: check the user id and the device or lock id",
	tasks.Protocol:  "the answer makes no sense: look at what a proxy or gateway on the way does to it",
	tasks.Rejected:  "the table of codes does not know this code: look it up, and add it to the deployment's reasons if it means something else",
}
