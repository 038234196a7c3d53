package simulator

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
)

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// validate names the first setting of a fault that makes no sense, and what would
// make sense.
func (f Fault) validate() error {
	switch {
	case f.Kind != "" && !slices.Contains(FaultKinds(), f.Kind):
		return fmt.Errorf("kind %q is not known; want one of %s", f.Kind, strings.Join(FaultKinds(), ", "))
	case f.Kind != "" && f.Status != 0:
		return fmt.Errorf("kind %q and a status exclude each other", f.Kind)
	case f.Kind == "" && f.Status == 0 && f.Delay == 0 && f.Skew == 0:
		return errors.New("fault does nothing; want a kind, a status, a delay or a skew")
	case f.Status != 0 && !carriesBody(f.Status):
		return fmt.Errorf("status is %d; want 200 to 599, and one that carries a body", f.Status)
	case f.Body != "" && f.Status == 0:
		return errors.New("body needs a status")
	case f.Delay < 0:
		return fmt.Errorf("delay is %v; want more than nothing", f.Delay)
	case f.Kind == KindSlow && f.Delay == 0:
		return errors.New("slow needs a delay")
	case f.Kind == KindHang && f.Delay != 0:
		return errors.New("hang lasts until the caller gives up; a delay changes nothing")
	case f.RetryAfter < 0:
		return fmt.Errorf("retry-after is %v; want more than nothing", f.RetryAfter)
	case f.silent() && (f.RetryAfter != 0 || len(f.Header) > 0):
		return fmt.Errorf("%s gives no answer that could carry a header", f.Kind)
	case math.IsNaN(f.Rate) || f.Rate < 0 || f.Rate > 1:
		return fmt.Errorf("rate is %v; want a share from 0 to 1", f.Rate)
	case f.Times < 0:
		return fmt.Errorf("times is %d; want 1 or more, or 0 for no limit", f.Times)
	case f.PerTarget && f.Times == 0:
		return errors.New("per-target needs times")
	}
	if err := f.Match.validate(); err != nil {
		return err
	}
	return validateHeader(f.Header)
}

func (m Match) validate() error {
	if m.Call != "" && !slices.Contains(callNames(), m.Call) {
		return fmt.Errorf("call %q is not known; want one of %s", m.Call, strings.Join(callNames(), ", "))
	}
	for _, pattern := range []string{m.User, m.Target} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("pattern %q is malformed; want letters, and * ? [a-z] for others", pattern)
		}
	}
	return nil
}

func validateHeader(h http.Header) error {
	for name, values := range h {
		switch {
		case !headerName.MatchString(name) || name != http.CanonicalHeaderKey(name):
			return fmt.Errorf("header %q is misspelt; want a name such as %q", name, "X-Example")
		case name == "Content-Length", name == "Transfer-Encoding", name == "Trailer":
			return fmt.Errorf("header %s frames the answer and is not to be chosen; %s lies about it", name, KindTruncate)
		case len(values) == 0:
			return fmt.Errorf("header %s has no value", name)
		}
		for _, v := range values {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return fmt.Errorf("header %s holds a control character", name)
			}
		}
	}
	return nil
}

// carriesBody reports whether a status is final and may come with a body.
func carriesBody(status int) bool {
	return status >= 200 && status <= 599 && status != http.StatusNoContent && status != http.StatusNotModified
}
