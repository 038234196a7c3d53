package koodrive

import (
	"maps"
	"slices"
	"strings"

	"github.com/kooworker/kooworker/tasks"
)

// rule is one row of the table. A field that is left out matches everything.
type rule struct {
	code    string // KooDrive's or the gateway's; with * at its end, how the code begins
	status  int    // HTTP status
	through int    // the last status of a range that begins with status
	from    origin // any of these
	auth    bool   // the text is about who is calling
	reason  tasks.Reason
}

// table says what answers mean. The first rule that matches wins, and a
// deployment's additions come before all of them (see ParseReasons).
//
// Codes come first because KooDrive sends its errors with HTTP 200 as well as
// with a fitting status, and the gateway sends 403 for throttling. Then the
// status decides. If a status is ambiguous, it matters who sent it: a 404 of
// KooDrive means that there is nothing left to do, a 404 of anybody else that
// the URL is wrong. Those two must never be mixed up: with a wrong URL every call
// is answered with 404, and a million deletions would be recorded as done. A 403
// of KooDrive is about the task and final. A firewall or gateway sends its 403 to
// every call, and a million tasks would be dead.
var table = []rule{
	// 1. Codes, whatever the status.
	{code: "13000309", reason: tasks.Gone},
	{status: 429, reason: tasks.Throttled}, // whatever else it says: the call was not looked at
	{code: "13000101", reason: tasks.Invalid},
	{code: "13000102", reason: tasks.Invalid},
	{code: "13000410", reason: tasks.Forbidden},
	{code: "13000201", reason: tasks.Upstream},
	{code: "APIG.0101", reason: tasks.Misrouted}, // no such API at this gateway
	{code: "APIG.0202", reason: tasks.Upstream},
	{code: "APIG.0203", reason: tasks.Upstream},
	{code: "APIG.0301", reason: tasks.Unauthorized},
	{code: "APIG.0303", reason: tasks.Unauthorized},
	{code: "APIG.0305", reason: tasks.Unauthorized},
	{code: "APIG.0307", reason: tasks.Unauthorized},
	{code: "APIG.0308", reason: tasks.Throttled},
	{code: "APIG.06*", reason: tasks.Upstream},

	// 2. HTTP 200. Only the first of these rows means success.
	{status: 200, code: "0", from: ambiguous, reason: tasks.OK},
	{status: 200, from: koodrive | ambiguous | gateway, reason: tasks.Rejected},
	{status: 200, reason: tasks.Protocol},
	{status: 201, through: 299, reason: tasks.Protocol},

	// 3. From KooDrive, 403 says that this user has no permission, and 404 and 410
	// that the device or lock is gone. From anybody else these statuses say that
	// the call did not get as far as KooDrive. 407 always comes from a proxy, and
	// 421 from a server in front that does not know the name.
	{status: 403, from: koodrive, reason: tasks.Forbidden},
	{status: 404, from: koodrive, reason: tasks.Gone},
	{status: 410, from: koodrive, reason: tasks.Gone},
	{status: 405, from: koodrive, reason: tasks.Rejected},
	{status: 501, from: koodrive, reason: tasks.Upstream},
	{status: 300, through: 399, reason: tasks.Misrouted},
	{status: 403, through: 405, reason: tasks.Misrouted},
	{status: 407, reason: tasks.Misrouted},
	{status: 410, reason: tasks.Misrouted},
	{status: 421, reason: tasks.Misrouted},
	{status: 501, reason: tasks.Misrouted},

	// 4. Statuses that mean the same whoever sends them.
	{status: 401, reason: tasks.Unauthorized},
	{status: 408, reason: tasks.TimedOut},
	{status: 500, through: 599, reason: tasks.Upstream},
	{status: 400, auth: true, reason: tasks.Unauthorized}, // bad parameters and failed authentication share 400
	{status: 400, through: 499, reason: tasks.Rejected},

	// 5. Statuses that no answer can have.
	{reason: tasks.Protocol},
}

// withAdditions puts a deployment's rules before the table.
func withAdditions(additions map[string]tasks.Reason) []rule {
	rules := make([]rule, 0, len(additions)+len(table))
	for _, code := range slices.Sorted(maps.Keys(additions)) {
		rules = append(rules, rule{code: code, reason: additions[code]})
	}
	return append(rules, table...)
}

// classify returns the reason of the first rule that matches.
func classify(rules []rule, status int, e envelope) tasks.Reason {
	code := canonicalCode(e.code)
	for _, r := range rules {
		if r.matches(status, code, e) {
			return r.reason
		}
	}
	return tasks.Protocol
}

func (r rule) matches(status int, code string, e envelope) bool {
	switch {
	case r.status != 0 && (status < r.status || status > max(r.status, r.through)),
		r.from != 0 && r.from&e.from == 0,
		r.auth && !e.speaksOfAuth():
		return false
	case r.code == "":
		return true
	}
	if start, ok := strings.CutSuffix(r.code, "*"); ok {
		return strings.HasPrefix(code, start)
	}
	return code == r.code
}
