package simulator

import (
	"cmp"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The calls, as faults name them and statistics count them.
const (
	CallUnbind  = "unbind"  // DELETE /device/{deviceId}
	CallRelease = "release" // DELETE /lock
	CallList    = "list"    // GET /device
	CallBind    = "bind"    // POST /device
	CallLock    = "lock"    // POST /lock
	CallRenew   = "renew"   // PATCH /lock
	CallOther   = "other"   // any other path or method
)

func callNames() []string {
	return []string{CallUnbind, CallRelease, CallList, CallBind, CallLock, CallRenew, CallOther}
}

const (
	pathPrefix = "/koodrive/ose/v1/backup"
	lockHeader = "X-Backup-Lock-Id"
	// maxBody is far below the gateway's 12 MB, and a hundred times what any
	// call of this API needs.
	maxBody = 64 << 10
)

// exchange is a request in flight, with what came over the wire, read once.
type exchange struct {
	*http.Request

	call    string
	known   bool   // the path exists, though perhaps not with this method
	user    string // X-User-Id
	target  string // the id of the device or lock, as it was sent
	body    []byte
	bodyErr error

	arrived time.Time     // by the server's clock
	skew    time.Duration // what a fault adds to that clock
	fault   string        // the name of the fault that applies
	quota   string        // the name of the quota that refused it
	told    http.Header   // what the quotas tell
}

// now is the time that the caller sees and is judged by.
func (x *exchange) now() time.Time { return x.arrived.Add(x.skew) }

func receive(w http.ResponseWriter, r *http.Request, now time.Time) *exchange {
	x := &exchange{Request: r, user: r.Header.Get("X-User-Id"), arrived: now}
	x.call, x.target, x.known = route(r.Method, r.URL.EscapedPath())
	if x.call == CallRelease || x.call == CallRenew {
		x.target = r.Header.Get(lockHeader)
	}
	// The body is read whatever the call: net/http notices that a caller has gone
	// only after the body was read, and faults that wait depend on that.
	x.body, x.bodyErr = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	return x
}

// devicePath is followed by the device's id.
const devicePath = pathPrefix + "/device/"

// routes maps each path to the calls that its methods make.
var routes = map[string]map[string]string{
	pathPrefix + "/device": {http.MethodGet: CallList, http.MethodPost: CallBind},
	pathPrefix + "/lock":   {http.MethodPost: CallLock, http.MethodPatch: CallRenew, http.MethodDelete: CallRelease},
	devicePath:             {http.MethodDelete: CallUnbind},
}

// route tells which call a request is, and the device that its path names.
// The path is the escaped one, so that an escaped slash stays part of an id.
func route(method, escaped string) (call, device string, known bool) {
	if segment, ok := strings.CutPrefix(escaped, devicePath); ok && !strings.Contains(segment, "/") {
		device, _ = url.PathUnescape(segment) // EscapedPath returns no malformed path
		escaped = devicePath
	}
	calls, known := routes[escaped]
	return cmp.Or(calls[method], CallOther), device, known
}
