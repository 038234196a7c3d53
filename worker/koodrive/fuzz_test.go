package koodrive

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

// Whatever is sent, success needs HTTP 200 and code 0, and already_gone needs a code
// of KooDrive's.
func FuzzClassify(f *testing.F) {
	for _, a := range answers.All() {
		f.Add(a.Status, []byte(a.Body))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		e := readEnvelope(body)
		got := classify(table, status, e)
		var loosely struct {
			Code json.RawMessage `json:"code"`
		}
		bad := json.Unmarshal(body, &loosely) != nil
		code := strings.Trim(string(loosely.Code), `"`)
		switch {
		case !slices.Contains(tasks.Reasons(), got):
			t.Fatalf("got %q, want a known reason", got)
		case got == tasks.OK && (status != 200 || bad || code != "0"):
			t.Fatalf("got ok for %d %q, want it only for HTTP 200 with code 0", status, body)
		case got == tasks.Gone && (bad || len(code) != 8 || !strings.HasPrefix(code, "13")):
			t.Fatalf("got already_gone for %d %q, want it only for a code of KooDrive", status, body)
		}
		if line := httpx.OneLine(e.text); strings.ContainsAny(line, "\r\n\x00") || len([]rune(line)) > httpx.MaxLine {
			t.Fatalf("got the message %q, want one short line", line)
		}
	})
}

func FuzzParseReasons(f *testing.F) {
	for _, seed := range []string{"13000999=invalid", "APIG.0999=throttled", "apigw.0999 = upstream", "0=ok", "13000999=already_gone", "=", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		reasons, err := ParseReasons([]string{entry})
		if err != nil {
			return
		}
		for code, reason := range reasons {
			if code == "0" || reason == tasks.OK || !slices.Contains(additionReasons, reason) {
				t.Fatalf("%q gives %s=%s, want a reason that a deployment may choose", entry, code, reason)
			}
			again, err := ParseReasons([]string{code + "=" + string(reason)})
			if err != nil || again[code] != reason {
				t.Fatalf("%s=%s: got %v, want it read back", code, reason, err)
			}
		}
		rules := withAdditions(reasons)
		for _, body := range []string{`{"code":404,"msg":"no such route"}`, "", `{"error_code":"APIG.0101","error_msg":""}`} {
			if got := classify(rules, 404, readEnvelope([]byte(body))); got == tasks.OK || got == tasks.Gone {
				t.Fatalf("with %q a wrong URL is %s, want neither ok nor already_gone", entry, got)
			}
		}
	})
}

func FuzzCanonicalQuery(f *testing.F) {
	for _, seed := range []string{"limit=2&marker=1", "k", "a=1&a=0", "a-b=1&a=2", "q=a+b%20c&&z=%7e", "q=%zz", "=x", "ü"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got := canonicalQuery(raw)
		if again := canonicalQuery(got); again != got {
			t.Fatalf("%q gives %q, which gives %q; want no further change", raw, got, again)
		}
		for i := range len(got) {
			if c := got[i]; c <= ' ' || c > '~' || c == '+' {
				t.Fatalf("%q gives %q, want visible ASCII without a plus sign", raw, got)
			}
		}
	})
}
