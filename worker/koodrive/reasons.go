package koodrive

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// additionReasons are the reasons that a deployment may give a code. OK is not
// among them: only HTTP 200 with code 0 is success.
var additionReasons = []tasks.Reason{
	tasks.Gone, tasks.Invalid, tasks.Forbidden, tasks.Unauthorized, tasks.Throttled, tasks.Upstream,
	tasks.TimedOut, tasks.Network, tasks.Protocol, tasks.Misrouted, tasks.Rejected,
}

var (
	additionKooDrive = regexp.MustCompile(`^[1-9][0-9]{0,19}$`)
	additionGateway  = regexp.MustCompile(`^APIG\.[0-9]{4}$`)
)

// ParseReasons reads a deployment's additions to the table of codes for
// Config.Reasons, each "<code>=<reason>": a KooDrive code such as
// 13000999=invalid, or a gateway code such as APIG.0999=throttled, which stands
// for APIGW.0999 as well. White space around the two does not matter. An addition
// goes before the table, so it can also change what a known code means.
func ParseReasons(list []string) (map[string]tasks.Reason, error) {
	reasons := make(map[string]tasks.Reason, len(list))
	for _, entry := range list {
		code, reason, ok := strings.Cut(entry, "=")
		if !ok {
			return nil, fmt.Errorf("reason %q: want <code>=<reason>, such as 13000999=invalid", httpx.OneLine(entry))
		}
		if err := addReason(reasons, strings.TrimSpace(code), tasks.Reason(strings.TrimSpace(reason))); err != nil {
			return nil, fmt.Errorf("reason %q: %w", httpx.OneLine(entry), err)
		}
	}
	return reasons, nil
}

// checkReasons is for a map that did not come from ParseReasons.
func checkReasons(reasons map[string]tasks.Reason) (map[string]tasks.Reason, error) {
	checked := make(map[string]tasks.Reason, len(reasons))
	for code, reason := range reasons {
		if err := addReason(checked, code, reason); err != nil {
			return nil, fmt.Errorf("reason of %q: %w", httpx.OneLine(code), err)
		}
	}
	return checked, nil
}

func addReason(reasons map[string]tasks.Reason, code string, reason tasks.Reason) error {
	code = canonicalCode(code)
	if err := checkAddition(code, reason); err != nil {
		return err
	}
	if _, twice := reasons[code]; twice {
		return fmt.Errorf("the code %s is given twice (APIG and APIGW are one); want it once", code)
	}
	reasons[code] = reason
	return nil
}

func checkAddition(code string, reason tasks.Reason) error {
	fromKooDrive := additionKooDrive.MatchString(code)
	switch {
	case !fromKooDrive && !additionGateway.MatchString(code):
		return errors.New("want a KooDrive code other than 0, such as 13000999, or a gateway code, such as APIG.0999")
	case reason == tasks.OK:
		return fmt.Errorf("only HTTP 200 with code 0 is success; want %s where nothing is left to do", tasks.Gone)
	case !slices.Contains(additionReasons, reason):
		return fmt.Errorf("want one of %v", additionReasons)
	case reason == tasks.Gone && !koodriveNS.MatchString(code):
		return fmt.Errorf("only a code of KooDrive, 13 and six more digits, can mean %s: "+
			"anything else may come from a wrong URL, which would record every task as done", tasks.Gone)
	default:
		return nil
	}
}
