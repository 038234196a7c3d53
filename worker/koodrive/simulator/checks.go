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

// answer makes the checks in the order in which a gateway makes them, and carries
// out a request that passes them.
func (s *Simulator) answer(x *exchange) *reply {
	for _, check := range []func(*exchange) *reply{
		checkPath,
		checkMethod,
		checkSize, // before the signature, which covers the body
		s.checkAuthorization,
		checkUser,
		s.checkDate,
		checkTrace,
		checkNoBody,
	} {
		if refused := check(x); refused != nil {
			return refused
		}
	}
	return s.perform(x)
}

func checkPath(x *exchange) *reply {
	if x.known {
		return nil
	}
	return gateway(http.StatusNotFound, "APIG.0101", "The API does not exist or has not been published in the environment")
}

// checkMethod answers 404 and not 405, as the vendor's gateway does.
func checkMethod(x *exchange) *reply {
	if x.call != CallOther {
		return nil
	}
	return gateway(http.StatusNotFound, "APIG.0101", "The API does not exist")
}

func checkSize(x *exchange) *reply {
	var tooLarge *http.MaxBytesError
	switch {
	case x.bodyErr == nil:
		return nil
	case errors.As(x.bodyErr, &tooLarge):
		return gateway(http.StatusRequestEntityTooLarge, "APIG.0201", "Request entity too large")
	default:
		return gateway(http.StatusBadRequest, "APIG.0201", "API request error")
	}
}

func (s *Simulator) checkAuthorization(x *exchange) *reply {
	refused := s.auth.authorize(x)
	if refused != nil {
		s.log.count(func(st *Stats) { st.AuthRefusals++ })
	}
	return refused
}

func checkUser(x *exchange) *reply {
	if one(x.Header, "X-User-Id") == "" {
		return badParameters("X-User-Id must be given once")
	}
	return nil
}

// checkDate compares X-Date with the server's clock. X-Date may be up to 15 minutes
// old but not later: a caller whose clock is a second fast is refused.
func (s *Simulator) checkDate(x *exchange) *reply {
	const wrong = "authentication failed: x-date "
	var problem string
	switch at, err := time.Parse(dateFormat, one(x.Header, "X-Date")); {
	case err != nil:
		problem = "must be given once, in UTC as " + dateFormat
	case at.After(x.now()):
		problem = "is later than the server's time"
	case x.now().Sub(at) > dateWindow:
		problem = "is more than 15 minutes old"
	default:
		return nil
	}
	s.log.count(func(st *Stats) { st.AuthRefusals++ })
	return koodrive(http.StatusBadRequest, codeUnauthenticated, wrong+problem)
}

func checkTrace(x *exchange) *reply {
	if _, sent := x.Header["X-Traceid"]; sent && len(one(x.Header, "X-Traceid")) != traceLength {
		return badParameters("X-Traceid must have 58 characters")
	}
	return nil
}

func checkNoBody(x *exchange) *reply {
	if (x.Method == http.MethodGet || x.Method == http.MethodDelete) && len(x.body) > 0 {
		return koodrive(http.StatusBadRequest, codeBadRequest, "bad request: "+x.Method+" takes no body")
	}
	return nil
}

// one returns the value of a header that was sent exactly once. If two were sent,
// the caller and a proxy on the way may each read another one.
func one(h http.Header, name string) string {
	if values := h[name]; len(values) == 1 {
		return values[0]
	}
	return ""
}
