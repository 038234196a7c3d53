package koodrive

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// The server sends the credential back in several forms, as a page and in KooDrive's
// envelope.
func TestClient_EchoedSecrets(t *testing.T) {
	t.Parallel()
	const appSecret = "app+secret/value"
	source, err := StaticToken(testToken)
	if err != nil {
		t.Fatal(err)
	}
	bearer, err := NewTokenAuthorizer("", source)
	if err != nil {
		t.Fatal(err)
	}
	suffixed, err := NewTokenAuthorizer("AT {token};v=1", source)
	if err != nil {
		t.Fatal(err)
	}
	app, err := NewAppAuthorizer("app-7", httpx.NewSecret(appSecret))
	if err != nil {
		t.Fatal(err)
	}
	signature := func(header string) string { return header[strings.LastIndexByte(header, '=')+1:] }
	echoes := map[string]func(header, secret string) string{
		"header": func(header, _ string) string { return "bad " + header },
		"secret": func(_, secret string) string { return "bad " + secret },
		"in URL": func(header, secret string) string {
			return "/?h=" + url.QueryEscape(header) + "&s=" + url.PathEscape(secret)
		},
		"in HTML": func(header, secret string) string { return html.EscapeString(header + " " + secret) },
		"by Gson": func(_, secret string) string { return strings.ReplaceAll(secret, "=", `\u003d`) },
		"cut off": func(_, secret string) string { return strings.Repeat("x", 190) + secret },
	}
	for name, tc := range map[string]struct {
		auth   Authorizer
		secret func(header string) string
	}{
		"bearer":     {bearer, func(string) string { return testToken }},
		"suffixed":   {suffixed, func(string) string { return testToken }},
		"signature":  {app, signature},
		"app secret": {app, func(string) string { return appSecret }},
		"foreign":    {&stub{}, func(header string) string { return header }},
	} {
		for form, echo := range echoes {
			for _, enveloped := range []bool{false, true} {
				var secret string
				srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
					header := r.Header.Get("Authorization")
					secret = tc.secret(header)
					body := echo(header, secret)
					if enveloped {
						quoted, _ := json.Marshal(body)
						body = `{"code":13000999,"msg":` + string(quoted) + `}`
					}
					say(200, body)(w, r)
				})
				c := connect(t, srv.URL, func(cfg *Config) { cfg.Authorizer = tc.auth })
				got := c.Unbind(t.Context(), testUser, testDevice).Message
				part := secret[:min(len(secret), 6)]
				says := httpx.Redacted[:5]
				if !enveloped {
					says = "not KooDrive's envelope but" // of a stranger's body nothing is quoted
				}
				if strings.Contains(got, part) || !strings.Contains(got, says) {
					t.Errorf("%s, %s, enveloped %t: got %q, want it without the secret and with %q", name, form, enveloped, got, says)
				}
			}
		}
	}
}

// The answer may name our own token as the device that it removed.
func TestUnbind_TokenAsDevice(t *testing.T) {
	t.Parallel()
	srv := serve(t, say(200, `{"code":0,"data":{"deviceId":"`+testToken+`"}}`))
	got := connect(t, srv.URL, nil).Unbind(t.Context(), testUser, testDevice)
	if want := "the answer names another device: [redacted]"; got.Reason != tasks.Protocol || got.Message != want {
		t.Errorf("got %v, want %q", got, want)
	}
}

func TestSecrets_HiddenFromFmt(t *testing.T) {
	t.Parallel()
	const hush = "hush-hush"
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, hush)
	token, err := StaticToken(hush)
	if err != nil {
		t.Fatal(err)
	}
	tokenFile, err := TokenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secretFile, err := SecretFile(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, say(200, `{"token":"`+hush+`","expires_in":600}`))
	b := newBroker(t, BrokerConfig{URL: strings.Replace(srv.URL, "//", "//u:"+hush+"@", 1) + "?key=" + hush})
	if _, err := b.Token(t.Context(), testUser); err != nil {
		t.Fatal(err)
	}
	auth, err := NewTokenAuthorizer("", token)
	if err != nil {
		t.Fatal(err)
	}
	app, err := NewAppAuthorizer("app", httpx.NewSecret(hush))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{BaseURL: "https://drive.example.com", Authorizer: auth}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	entry, _ := b.cache.Get(testUser)
	for _, v := range []any{token, tokenFile, secretFile, b, entry, auth, *auth, app, *app, cfg, c, c.auth, httpx.NewSecret(hush)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, hush) || strings.Contains(text, fmt.Sprintf("%x", hush)) {
				t.Errorf("%s of %T: got %s, want it without the secret", verb, v, text)
			}
		}
	}
}

func TestClient_MessageIsOneLine(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"code":13000999,"msg":"one\n\u001b[2J` + strings.Repeat("Welcome ", 100) + `"}`: "one [2JWelcome Welcome",
		"<html>\n<body>\x1b[2J": "not KooDrive's envelope but 17 bytes of text/html",
		"":                      "not KooDrive's envelope but nothing",
	} {
		c := connect(t, serve(t, say(200, body)).URL, nil)
		if got := c.Release(t.Context(), testUser, testLock); !strings.HasPrefix(got.Message, want) {
			t.Errorf("%q: got %v, want the message to begin with %q", body, got, want)
		}
	}
}

func TestClient_EchoedPiece(t *testing.T) {
	t.Parallel()
	srv := serve(t, say(200, `{"code":13000999,"msg":"token `+testToken[:len(testToken)-2]+` refused"}`))
	if got := connect(t, srv.URL, nil).Unbind(t.Context(), testUser, testDevice).Message; got != "token [redacted] refused" {
		t.Errorf("got %q, want the piece of the token replaced", got)
	}
}

// An escaped echo lies across the place where the beginning of a long text ends.
// What of it is in the beginning is too short to be found there.
func TestSanitize_SecretAcrossTheEndOfTheBeginning(t *testing.T) {
	t.Parallel()
	token := strings.Repeat("Qz7-kW3_", 13)
	source, err := StaticToken(token)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewTokenAuthorizer("", source)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{BaseURL: "https://koodrive.example.com", Authorizer: auth})
	if err != nil {
		t.Fatal(err)
	}
	var escaped strings.Builder
	for i := range len(token) {
		fmt.Fprintf(&escaped, "%%%02x", token[i])
	}
	for shift := range 40 {
		// The first echo is long, and its mark is short: so the end comes into sight.
		text := token + strings.Repeat("\U0001f512", 165) + strings.Repeat("x", shift) + escaped.String() + strings.Repeat(" end", 500)
		message := c.sanitize(nil, text)
		if strings.Contains(message, "%51") || strings.Contains(strings.ToLower(message), "%7a") {
			t.Errorf("shifted by %d: %q; want nothing of the token", shift, message)
		}
	}
}
