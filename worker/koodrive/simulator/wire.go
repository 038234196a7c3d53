package simulator

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// KooDrive's codes. codeUnauthenticated is not a published one: the reference gives
// no code for a wrong X-Date, and a client has to read the message.
const (
	codeSuccess         = 0
	codeBadRequest      = 13000101
	codeBadParameters   = 13000102
	codeNotFound        = 13000309
	codeUnauthenticated = 13000499
)

// envelope is what KooDrive answers.
type envelope struct {
	Code int    `json:"code"`
	Msg  string `json:"msg"`
	Data any    `json:"data,omitempty"`
}

// gatewayError is what the gateway in front of KooDrive answers.
type gatewayError struct {
	Code      string `json:"error_code"`
	Msg       string `json:"error_msg"`
	RequestID string `json:"request_id"`
}

type bindRequest struct {
	MachineCode string `json:"machineCode"`
	DeviceName  string `json:"deviceName"`
	DeviceOS    string `json:"deviceOS"`
}

type lockRequest struct {
	ModuleCode string `json:"moduleCode"`
}

type lockData struct {
	LockID string `json:"lockId"`
}

// reply is an answer before it is sent. A fault may still spoil it.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func success(data any) *reply {
	return jsonReply(http.StatusOK, envelope{Code: codeSuccess, Msg: "success", Data: data})
}

func koodrive(status, code int, msg string) *reply {
	return jsonReply(status, envelope{Code: code, Msg: msg})
}

func gateway(status int, code, msg string) *reply {
	id := strings.ReplaceAll(uuid.NewString(), "-", "")
	return jsonReply(status, gatewayError{Code: code, Msg: msg, RequestID: id})
}

func jsonReply(status int, v any) *reply {
	body, err := json.Marshal(v)
	if err != nil { // not with the types above
		status, body = http.StatusInternalServerError, []byte(strconv.Quote(err.Error()))
	}
	return &reply{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: body}
}

// dated returns the reply with the server's time as its Date. A Date that a fault
// has set stays.
func (r *reply) dated(now time.Time) *reply {
	if r == nil || r.header.Get("Date") != "" {
		return r
	}
	r = r.clone()
	r.header.Set("Date", now.UTC().Format(http.TimeFormat))
	return r
}

// dressed returns the reply with the headers that a fault adds.
func (r *reply) dressed(f Fault) *reply {
	if r == nil {
		return nil
	}
	r = r.clone()
	maps.Copy(r.header, f.Header.Clone())
	if f.RetryAfter > 0 {
		seconds := int64((f.RetryAfter + time.Second - 1) / time.Second)
		r.header.Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	return r
}

// clone protects the replies of faults, which many requests share.
func (r *reply) clone() *reply {
	header := r.header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	return &reply{status: r.status, header: header, body: r.body}
}
