package koodrive

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

// longToken returns a token of this many bytes in base64.
func longToken(size int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	token, state := make([]byte, size), uint32(1)
	for i := range token {
		state = state*1664525 + 1013904223 // a linear congruential generator
		token[i] = alphabet[state>>26]
	}
	return string(token)
}

// answerer returns a function that lets a client read one answer to a request with
// the token.
func answerer(tb testing.TB, auth Authorizer, token string, status int, body string) func() Answer {
	tb.Helper()
	c, err := New(Config{BaseURL: "https://drive.example.com", Authorizer: auth})
	if err != nil {
		tb.Fatal(err)
	}
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodDelete, c.base+"/lock", http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Authorization", strings.Replace(DefaultTokenFormat, tokenMark, token, 1))
	release := call{limit: maxAnswer, read: func(json.RawMessage) error { return nil }}
	return func() Answer {
		resp := &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}
		return c.readAnswer(tb.Context(), req, resp, release)
	}
}

func TestReadAnswer_SuccessIsNotRedacted(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]struct {
		reason tasks.Reason
		redact bool
	}{
		`{"code":0,"msg":"success"}`:              {tasks.OK, false},
		`{"code":13000999,"msg":"not now"}`:       {tasks.Rejected, true},
		`{"code":13000309,"msg":"doesn't exist"}`: {tasks.Gone, true},
	} {
		auth := &stub{}
		got := answerer(t, auth, testToken, http.StatusOK, body)()
		if redacted := auth.redactions.Load() > 0; got.Reason != want.reason || redacted != want.redact {
			t.Errorf("%s: got %v, redacted: %t; want %s, redacted: %t", body, got, redacted, want.reason, want.redact)
		}
		if (got.Message == "") != (got.Reason == tasks.OK) {
			t.Errorf("%s: got the message %q, want one unless it is a success", body, got.Message)
		}
	}
}

// A success costs the same whatever the token is, since nothing is redacted.
func BenchmarkAnswerOfSuccess(b *testing.B) {
	for name, size := range map[string]int{"token of 24 B": 24, "token of 4 KB": 4 << 10} {
		b.Run(name, func(b *testing.B) {
			auth := &stub{}
			read := answerer(b, auth, longToken(size), http.StatusOK, `{"code":0,"msg":"success"}`)
			b.ReportAllocs()
			for b.Loop() {
				if got := read(); got.Reason != tasks.OK {
					b.Fatal(got)
				}
			}
			if n := auth.redactions.Load(); n > 0 {
				b.Errorf("%d texts were redacted, want none", n)
			}
		})
	}
}

func BenchmarkFailureWithLongToken(b *testing.B) {
	const sentence = "operation not allowed for user u-1 and device 1775406005920779393, ask your administrator; "
	token := longToken(4 << 10)
	source, err := StaticToken(token)
	if err != nil {
		b.Fatal(err)
	}
	auth, err := NewTokenAuthorizer("", source)
	if err != nil {
		b.Fatal(err)
	}
	fill := func(text string, size int) string { return strings.Repeat(text, size/len(text)+1)[:size] }
	for _, answer := range []struct{ name, text string }{
		{"200 B", fill(sentence, 200)},
		{"2 KB", fill(sentence, 2<<10)},
		{"2 KB escaped", fill(strings.ReplaceAll(sentence, " ", "%20"), 2<<10)},
		{"64 KB", fill(sentence, 64<<10)},
		{"4 KB that are the token", "bad token " + token},
	} {
		b.Run(answer.name, func(b *testing.B) {
			read := answerer(b, auth, token, http.StatusOK, `{"code":13000999,"msg":"`+answer.text+`"}`)
			b.ReportAllocs()
			for b.Loop() {
				if got := read(); got.Reason != tasks.Rejected || strings.Contains(got.Message, token[:8]) {
					b.Fatal(got)
				}
			}
		})
	}
	b.Run("preparation", func(b *testing.B) { // once per token
		b.ReportAllocs()
		for b.Loop() {
			prepared := sentRedactors(auth)
			prepared(strings.Replace(DefaultTokenFormat, tokenMark, token, 1))
		}
	})
}
