package koodrive

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
)

// sender is who an answer's body appears to come from. The values are bits, so
// that a rule can name several.
type sender uint8

const (
	// stranger: neither of the two envelopes; a proxy, another service, a web
	// page, nothing at all.
	stranger sender = 1 << iota
	// gateway: the gateway's envelope, {"error_code":"APIG.0308","error_msg":…}.
	gateway
	// lookalike: the shape of KooDrive's envelope, but the code says nothing
	// about its origin: 0, or another service's {"code":404,"msg":…}.
	lookalike
	// koodrive: KooDrive's envelope with a code in KooDrive's namespace.
	koodrive
)

// envelope is the body of an answer as far as it was understood.
type envelope struct {
	from sender
	code string          // as sent; "" for a stranger
	text string          // msg or error_msg; for a stranger the whole body
	data json.RawMessage // nil when absent
}

var (
	integer     = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,19})$`)
	digits      = regexp.MustCompile(`^[0-9]{1,20}$`)
	koodriveNS  = regexp.MustCompile(`^13[0-9]{6}$`)
	gatewayCode = regexp.MustCompile(`^[A-Za-z]{1,16}\.[0-9]{1,8}$`)
)

// readEnvelope reads a body. KooDrive's envelope is one JSON object and nothing
// after it, whose code is an integer or a string of digits; the gateway's has
// an error_code such as APIG.0308. What claims to be both is neither, and so is
// an object with a member given twice: two readers would read it differently.
func readEnvelope(body []byte) envelope {
	unknown := envelope{from: stranger, text: string(body)}
	members, ok := readObject(body)
	if !ok {
		return unknown
	}
	rawCode, hasCode := members["code"]
	rawError, hasError := members["error_code"]
	switch {
	case hasCode && hasError:
		return unknown
	case hasCode:
		code, ok := readCode(rawCode)
		if !ok {
			return unknown
		}
		e := envelope{from: lookalike, code: code, data: members["data"]}
		msg, isString := readString(members["msg"])
		if isString && koodriveNS.MatchString(code) {
			e.from = koodrive
		}
		e.text = msg
		return e
	case hasError:
		code, ok := readString(rawError)
		if !ok || !gatewayCode.MatchString(code) {
			return unknown
		}
		msg, _ := readString(members["error_msg"])
		return envelope{from: gateway, code: code, text: msg}
	default:
		return unknown
	}
}

// readObject splits one JSON object into its members. Unlike json.Unmarshal
// into a struct it tells names apart by case and refuses a name given twice.
func readObject(body []byte) (map[string]json.RawMessage, bool) {
	if !json.Valid(body) {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, false
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		tok, err := dec.Token()
		name, isName := tok.(string)
		if _, twice := members[name]; err != nil || !isName || twice {
			return nil, false
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, false
		}
		members[name] = value
	}
	return members, true
}

func readCode(raw json.RawMessage) (string, bool) {
	if s, ok := readString(raw); ok {
		return s, digits.MatchString(s)
	}
	return string(raw), integer.Match(raw)
}

func readString(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// canonicalCode is a code as rules name it: the gateway's prefixes APIG and
// APIGW are one, in capitals.
func canonicalCode(code string) string {
	code = strings.ToUpper(code)
	if number, ok := strings.CutPrefix(code, "APIGW."); ok {
		return "APIG." + number
	}
	return code
}

var authWords = []string{"authenticat", "authoriz", "credential", "signature", "token", "x-date"}

// speaksOfAuth reports whether an answer is about who is calling. Of a
// stranger's page only the first KiB is looked at: what follows is decoration.
func (e envelope) speaksOfAuth() bool {
	text := e.text
	if e.from == stranger && len(text) > 1<<10 {
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
