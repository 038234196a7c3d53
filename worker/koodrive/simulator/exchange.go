package simulator

import (
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
	// maxBody is far below the gateway's 12 MB, and a hundred times what a call
	// of this API needs.
	maxBody = 64 << 10
)

// exchange is a request that is being answered. It was read once.
type exchange struct {
	*http.Request

	call    string
	known   bool   // the path exists, perhaps with another method
	user    string // X-User-Id
	target  string // the id of the device or lock, as it was sent
	body    []byte
	bodyErr error

	arrived time.Time     // by the server's clock
	skew    time.Duration // by how much a fault puts that clock off
	fault   string        // the name of the fault that applies
}

// now is the server's time as the caller sees it, and as X-Date is checked
// against it.
func (x *exchange) now() time.Time { return x.arrived.Add(x.skew) }

func receive(w http.ResponseWriter, r *http.Request, now time.Time) *exchange {
	x := &exchange{Request: r, user: r.Header.Get("X-User-Id"), arrived: now}
	x.call, x.target, x.known = route(r.Method, r.URL.EscapedPath())
	if x.call == CallRelease || x.call == CallRenew {
		x.target = r.Header.Get(lockHeader)
	}
	// The body is read in any case. net/http notices only then that a caller is
	// gone, and faults that wait depend on that.
	x.body, x.bodyErr = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	return x
}

// route returns which call a request is, and the device that its path names. It
// takes the escaped path, so that an escaped slash stays part of an id.
func route(method, escaped string) (call, device string, known bool) {
	rest, ours := strings.CutPrefix(escaped, pathPrefix)
	if !ours {
		return CallOther, "", false
	}
	var calls map[string]string
	switch {
	case rest == "/device":
		calls = map[string]string{http.MethodGet: CallList, http.MethodPost: CallBind}
	case rest == "/lock":
		calls = map[string]string{http.MethodPost: CallLock, http.MethodPatch: CallRenew, http.MethodDelete: CallRelease}
	case strings.HasPrefix(rest, "/device/") && strings.Count(rest, "/") == 2:
		calls = map[string]string{http.MethodDelete: CallUnbind}
		segment := strings.TrimPrefix(rest, "/device/")
		var err error
		if device, err = url.PathUnescape(segment); err != nil {
			device = segment // fails the check of its format
		}
	default:
		return CallOther, "", false
	}
	if call, known = calls[method]; !known {
		return CallOther, device, true
	}
	return call, device, true
}
