// Package answers is a catalogue of answers: those of KooDrive, of the gateway in
// front of it, and of anything else that a wrong URL may lead to. Each has the
// reason that a client must give it.
//
// It is written from the vendor's API reference and not from the client's code.
// The client's tests and the simulator are both measured against it, so that they
// cannot be wrong together. It holds data only, and imports nothing of this module
// but package tasks.
package answers

import (
	"net/http"

	"github.com/kooworker/kooworker/tasks"
)

// Answer is one HTTP answer to an unbind or a release.
type Answer struct {
	// Name identifies the answer in fault scripts and test names.
	Name string
	// Status is the HTTP status.
	Status int
	// Header holds what is sent beyond Date and Content-Length. May be nil.
	Header http.Header
	// Body is sent as it stands.
	Body string
	// Reason is the reason that a client must give the answer.
	Reason tasks.Reason
}

const html404 = "<html><head><title>404 Not Found</title></head><body><center><h1>404 Not Found</h1></center><hr><center>nginx</center></body></html>"

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

func htmlHeader() http.Header { return http.Header{"Content-Type": {"text/html"}} }

func koodrive(name string, status int, body string, reason tasks.Reason) Answer {
	return Answer{Name: name, Status: status, Header: jsonHeader(), Body: body, Reason: reason}
}

func gateway(name string, status int, code, msg string, reason tasks.Reason) Answer {
	return Answer{
		Name: name, Status: status, Header: jsonHeader(), Reason: reason,
		Body: `{"error_code":"` + code + `","error_msg":"` + msg + `","request_id":"1962be5bd3ed4c33e8a1d5a8a6b2a9a1"}`,
	}
}

func page(name string, status int, body string, reason tasks.Reason) Answer {
	return Answer{Name: name, Status: status, Header: htmlHeader(), Body: body, Reason: reason}
}

func (a Answer) with(key, value string) Answer {
	a.Header = a.Header.Clone()
	a.Header.Set(key, value)
	return a
}

// All returns the catalogue. Every reason that an answer can have occurs in it.
func All() []Answer {
	return []Answer{
		// KooDrive's own envelope.
		koodrive("ok", 200, `{"code":0,"msg":"success"}`, tasks.OK),
		koodrive("ok-code-as-string", 200, `{"code":"0","msg":"success"}`, tasks.OK),
		koodrive("gone-200", 200, `{"code":13000309,"msg":"resource doesn't exist"}`, tasks.Gone),
		koodrive("gone-400", 400, `{"code":13000309,"msg":"resource doesn't exist"}`, tasks.Gone),
		koodrive("gone-404", 404, `{"code":13000309,"msg":"resource doesn't exist"}`, tasks.Gone),
		koodrive("gone-500", 500, `{"code":13000309,"msg":"resource doesn't exist"}`, tasks.Gone),
		koodrive("gone-code-as-string", 404, `{"code":"13000309","msg":"resource doesn't exist"}`, tasks.Gone),
		koodrive("gone-404-other-code", 404, `{"code":13000399,"msg":"not found"}`, tasks.Gone),
		koodrive("gone-410-other-code", 410, `{"code":13000399,"msg":"gone"}`, tasks.Gone),
		koodrive("invalid-request", 400, `{"code":13000101,"msg":"bad request"}`, tasks.Invalid),
		koodrive("invalid-parameters", 200, `{"code":13000102,"msg":"invalid parameters"}`, tasks.Invalid),
		koodrive("forbidden", 403, `{"code":13000410,"msg":"no permission"}`, tasks.Forbidden),
		koodrive("forbidden-200", 200, `{"code":13000410,"msg":"no permission"}`, tasks.Forbidden),
		koodrive("forbidden-other-code", 403, `{"code":13000499,"msg":"denied"}`, tasks.Forbidden),
		koodrive("unauthorized", 401, `{"code":13000401,"msg":"token expired"}`, tasks.Unauthorized),
		koodrive("unauthorized-400", 400, `{"code":13000499,"msg":"authentication failed"}`, tasks.Unauthorized),
		koodrive("throttled", 429, `{"code":13000429,"msg":"too many requests"}`, tasks.Throttled),
		koodrive("throttled-retry-after", 429, `{"code":13000429,"msg":"too many requests"}`, tasks.Throttled).with("Retry-After", "1"),
		koodrive("throttled-code", 429, `{"code":13000410,"msg":"no permission"}`, tasks.Throttled),
		koodrive("upstream-200", 200, `{"code":13000201,"msg":"internal error"}`, tasks.Upstream),
		koodrive("upstream-500", 500, `{"code":13000201,"msg":"internal error"}`, tasks.Upstream),
		koodrive("upstream-500-code-0", 500, `{"code":0,"msg":"success"}`, tasks.Upstream),
		koodrive("rejected", 200, `{"code":13000999,"msg":"operation not allowed now"}`, tasks.Rejected),
		koodrive("rejected-400", 400, `{"code":13000999,"msg":"operation not allowed now"}`, tasks.Rejected),

		// The gateway in front.
		gateway("gateway-no-api", 404, "APIG.0101", "The API does not exist or has not been published in an environment", tasks.Misrouted),
		gateway("gateway-backend-unavailable", 502, "APIG.0202", "Backend unavailable", tasks.Upstream),
		gateway("gateway-backend-timeout", 504, "APIG.0203", "Backend timeout", tasks.Upstream),
		gateway("gateway-credential", 401, "APIG.0301", "Incorrect IAM authentication information", tasks.Unauthorized),
		gateway("gateway-app", 401, "APIG.0303", "Incorrect app authentication information", tasks.Unauthorized),
		gateway("gateway-publicity", 401, "APIG.0305", "Incorrect authentication information", tasks.Unauthorized),
		gateway("gateway-token", 401, "APIG.0307", "The token must be updated", tasks.Unauthorized),
		gateway("gateway-token-400", 400, "APIGW.0307", "The token must be updated", tasks.Unauthorized),
		gateway("gateway-throttled", 429, "APIG.0308", "The throttling threshold has been reached", tasks.Throttled),
		gateway("gateway-throttled-403", 403, "APIG.0308", "The throttling threshold has been reached", tasks.Throttled),
		gateway("gateway-credential-403", 403, "APIG.0301", "Incorrect IAM authentication information", tasks.Unauthorized),
		gateway("gateway-user-not-authorized", 403, "APIG.0302", "The IAM user is not authorized to access the API", tasks.Misrouted),
		gateway("gateway-app-not-authorized", 403, "APIG.0304", "The app is not authorized to access the API", tasks.Misrouted),
		gateway("gateway-access-denied", 403, "APIG.0306", "API access denied", tasks.Misrouted),
		gateway("gateway-no-project", 403, "APIG.0310", "The project ID is unavailable", tasks.Misrouted),
		gateway("gateway-unknown-address", 403, "APIG.0401", "Unknown client IP address", tasks.Misrouted),
		gateway("gateway-address-not-authorized", 403, "APIGW.0402", "The IP address is not authorized to access the API", tasks.Misrouted),
		gateway("gateway-internal", 500, "APIG.0602", "Internal error", tasks.Upstream),
		gateway("gateway-internal-400", 400, "APIG.0611", "Internal error", tasks.Upstream),

		// Anything else: a proxy, another service, a load balancer, or nothing at
		// all.
		page("html-404", 404, html404, tasks.Misrouted),
		page("html-403", 403, "<html><body>Your request was blocked. Event id: 8a2f</body></html>", tasks.Misrouted),
		page("html-410", 410, "<html><body>Gone</body></html>", tasks.Misrouted),
		page("html-405", 405, "<html><body>Method Not Allowed</body></html>", tasks.Misrouted),
		page("html-503", 503, "<html><body>Service Unavailable</body></html>", tasks.Upstream),
		page("html-200", 200, "<html><body>Welcome</body></html>", tasks.Protocol),
		page("html-400-auth", 400, "<html><body>Authorization required</body></html>", tasks.Unauthorized),
		page("redirect", 302, "", tasks.Misrouted).with("Location", "/login"),
		{Name: "empty-404", Status: 404, Reason: tasks.Misrouted},
		{Name: "empty-401", Status: 401, Reason: tasks.Unauthorized},
		{Name: "empty-403", Status: 403, Reason: tasks.Misrouted},
		{Name: "empty-429", Status: 429, Reason: tasks.Throttled},
		{Name: "empty-500", Status: 500, Reason: tasks.Upstream},
		{Name: "empty-200", Status: 200, Reason: tasks.Protocol},
		{Name: "empty-204", Status: 204, Reason: tasks.Protocol},
		koodrive("foreign-403", 403, `{"code":403,"msg":"forbidden"}`, tasks.Misrouted),
		koodrive("foreign-404", 404, `{"code":404,"msg":"no such route"}`, tasks.Misrouted),
		koodrive("foreign-404-message", 404, `{"timestamp":"2026-01-31T08:30:00Z","status":404,"error":"Not Found","path":"/koodrive"}`, tasks.Misrouted),
		koodrive("no-code", 200, `{"msg":"success"}`, tasks.Protocol),
		koodrive("null-code", 200, `{"code":null,"msg":"success"}`, tasks.Protocol),
		koodrive("empty-code", 200, `{"code":"","msg":"success"}`, tasks.Protocol),
		koodrive("boolean-code", 200, `{"code":false,"msg":"success"}`, tasks.Protocol),
		koodrive("truncated", 200, `{"code":0,"msg":"suc`, tasks.Protocol),
		koodrive("two-objects", 200, `{"code":0}{"code":13000410}`, tasks.Protocol),
		koodrive("a-list", 200, `[{"code":0}]`, tasks.Protocol),
		koodrive("code-0-404", 404, `{"code":0,"msg":"success"}`, tasks.Misrouted),
		koodrive("other-device", 200, `{"code":0,"msg":"success","data":{"deviceId":"not-the-one","machineCode":"m","deviceName":"n","deviceOS":"android","createTime":"2025-09-15T06:14:48.630Z"}}`, tasks.Protocol),
	}
}

// ByName returns the answer of that name.
func ByName(name string) (Answer, bool) {
	for _, a := range All() {
		if a.Name == name {
			return a, true
		}
	}
	return Answer{}, false
}
