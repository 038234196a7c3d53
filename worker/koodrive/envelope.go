package koodrive

import (
	"encoding/json"
	"regexp"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// origin is where an answer's body appears to come from. The values are bits, so
// that a rule can name several.
type origin uint8

const (
	// unknown is a body with neither envelope: of a proxy, of another service, a
	// web page, or nothing at all.
	unknown origin = 1 << iota
	// gateway is a body with the gateway's envelope, {"error_code":"APIG.0308","error_msg":…}.
	gateway
	// ambiguous is a body with the shape of KooDrive's envelope whose code does not
	// tell who sent it: 0, or another service's {"code":404,"msg":…}.
	ambiguous
	// koodrive is a body with KooDrive's envelope and a code of KooDrive's.
	koodrive
)

// envelope is the body of an answer as far as it was understood.
type envelope struct {
	from origin
	code string          // as sent; "" if unknown
	text string          // msg or error_msg; the whole body if unknown
	data json.RawMessage // nil if absent
}

var (
	integer     = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,19})$`)
	digits      = regexp.MustCompile(`^[0-9]{1,20}$`)
	koodriveNS  = regexp.MustCompile(`^13[0-9]{6}$`)
	gatewayCode = regexp.MustCompile(`^[A-Za-z]{1,16}\.[0-9]{1,8}$`)
)

// readEnvelope reads a body, whoever sent it.
func readEnvelope(body []byte) envelope {
	if e, ok := parseEnvelope(body); ok {
		return e
	}
	return envelope{from: unknown, text: string(body)}
}

// parseEnvelope reads one of the two envelopes. KooDrive's is one JSON object and
// nothing after it, whose code is an integer or a string of digits; the gateway's
// has an error_code such as APIG.0308. What claims to be both is neither, and so
// is an object that has a member twice, at any depth: two readers would read it
// differently.
func parseEnvelope(body []byte) (e envelope, ok bool) {
	var members struct {
		Code      jsontext.Value `json:"code"`
		Msg       jsontext.Value `json:"msg"`
		Data      jsontext.Value `json:"data"`
		ErrorCode jsontext.Value `json:"error_code"`
		ErrorMsg  jsontext.Value `json:"error_msg"`
	}
	// This library is what Go 1.27 has as encoding/json/v2. Unlike encoding/json it
	// tells names apart by case and refuses a name that is given twice.
	if err := jsonv2.Unmarshal(body, &members, jsontext.AllowInvalidUTF8(true)); err != nil {
		return envelope{}, false
	}
	fromKooDrive, fromGateway := members.Code != nil, members.ErrorCode != nil
	switch {
	case fromKooDrive && !fromGateway:
		var hasMsg bool
		e = envelope{from: ambiguous, data: json.RawMessage(members.Data)}
		e.code, ok = readCode(members.Code)
		if e.text, hasMsg = readString(members.Msg); hasMsg && koodriveNS.MatchString(e.code) {
			e.from = koodrive
		}
		return e, ok
	case fromGateway && !fromKooDrive:
		e = envelope{from: gateway}
		e.code, ok = readString(members.ErrorCode)
		e.text, _ = readString(members.ErrorMsg)
		return e, ok && gatewayCode.MatchString(e.code)
	default:
		return envelope{}, false
	}
}

func readCode(raw jsontext.Value) (string, bool) {
	if s, ok := readString(raw); ok {
		return s, digits.MatchString(s)
	}
	return string(raw), integer.Match(raw)
}

func readString(raw jsontext.Value) (s string, ok bool) {
	if raw.Kind() != '"' {
		return "", false
	}
	return s, jsonv2.Unmarshal(raw, &s, jsontext.AllowInvalidUTF8(true)) == nil
}

// canonicalCode returns a code as rules name it: in capitals, and with APIG for
// the gateway's prefixes APIG and APIGW.
func canonicalCode(code string) string {
	code = strings.ToUpper(code)
	if number, ok := strings.CutPrefix(code, "APIGW."); ok {
		return "APIG." + number
	}
	return code
}

var authWords = []string{"authenticat", "authoriz", "credential", "signature", "token", "x-date"}

// speaksOfAuth reports whether an answer is about who is calling. Of a body with
// neither envelope only the first KiB counts: the rest of a page is decoration.
func (e envelope) speaksOfAuth() bool {
	text := e.text
	if e.from == unknown && len(text) > 1<<10 {
		text = text[:1<<10]
	}
	text = strings.ToLower(text)
	for _, word := range authWords {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}
