package simulator

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// KooDrive's codes. codeUnauthenticated is not a published one: the reference
// gives no code for a wrong X-Date, so that a client must go by the message.
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

// reply is an answer before a fault adds to it or breaks it off. Many requests
// share the answers of the fault plan, so nothing may modify these.
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
