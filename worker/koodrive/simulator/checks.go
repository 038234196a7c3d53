package simulator

import (
	"errors"
	"net/http"
	"time"
)

const (
	dateFormat  = "20060102T150405Z"
	dateWindow  = 15 * time.Minute
	traceLength = 58
)

// answer passes a request through the checks, in the order in which a gateway
// makes them, and carries out the request if it passes.
func (s *Simulator) answer(x *exchange) *reply {
	var tooLarge *http.MaxBytesError
	switch {
	case !x.known:
		return gateway(http.StatusNotFound, "APIG.0101", "The API does not exist or has not been published in the environment")
	case x.call == CallOther: // the vendor's gateway answers 404 to a wrong method, not 405
		return gateway(http.StatusNotFound, "APIG.0101", "The API does not exist")
	case errors.As(x.bodyErr, &tooLarge): // before the signature, which covers the body
		return gateway(http.StatusRequestEntityTooLarge, "APIG.0201", "Request entity too large")
	case x.bodyErr != nil:
		return gateway(http.StatusBadRequest, "APIG.0201", "API request error")
	}
	if refused := s.checkAuthorization(x); refused != nil {
		s.log.count(func(st *Stats) { st.AuthRefusals++ })
		return refused
	}
	if one(x.Header, "X-User-Id") == "" {
		return badParameters("X-User-Id must be given once")
	}
	if problem := dateProblem(x); problem != "" {
		s.log.count(func(st *Stats) { st.AuthRefusals++ })
		return koodrive(http.StatusBadRequest, codeUnauthenticated, "authentication failed: x-date "+problem)
	}
	if _, sent := x.Header["X-Traceid"]; sent && len(one(x.Header, "X-Traceid")) != traceLength {
		return badParameters("X-Traceid must have 58 characters")
	}
	if (x.Method == http.MethodGet || x.Method == http.MethodDelete) && len(x.body) > 0 {
		return koodrive(http.StatusBadRequest, codeBadRequest, "bad request: "+x.Method+" takes no body")
	}
	return s.perform(x)
}

// dateProblem compares X-Date with the server's clock, and returns "" if it is
// acceptable. The window is open to the past only: a caller whose clock is a
// second fast is refused.
func dateProblem(x *exchange) string {
	at, err := time.Parse(dateFormat, one(x.Header, "X-Date"))
	switch {
	case err != nil:
		return "must be given once, in UTC as " + dateFormat
	case at.After(x.now()):
		return "is later than the server's time"
	case x.now().Sub(at) > dateWindow:
		return "is more than 15 minutes old"
	default:
		return ""
	}
}

// one returns the value of a header that was sent exactly once, else "". If two
// were sent, the caller and a proxy in between may each mean another.
func one(h http.Header, name string) string {
	if values := h[name]; len(values) == 1 {
		return values[0]
	}
	return ""
}
