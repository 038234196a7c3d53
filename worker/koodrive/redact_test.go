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
	"unicode/utf8"

	"github.com/kooworker/kooworker/tasks"
)

// A server that sends the credential back, in several forms, and as a page as
// well as in KooDrive's envelope.
func TestSecretsThatTheServerEchoes(t *testing.T) {
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
	app, err := NewAppAuthorizer("app-7", conceal(appSecret))
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
				says := redacted[:5]
				if !enveloped {
					says = "not KooDrive's envelope but" // of a stranger's body nothing is quoted
				}
				if strings.Contains(got, part) || !strings.Contains(got, says) {
					t.Errorf("%s, %s, enveloped %t: got %q", name, form, enveloped, got)
				}
			}
		}
	}
}

// The answer may name our own token as the device that it removed.
func TestSecretInADistrustedAnswer(t *testing.T) {
	t.Parallel()
	srv := serve(t, say(200, `{"code":0,"data":{"deviceId":"`+testToken+`"}}`))
	got := connect(t, srv.URL, nil).Unbind(t.Context(), testUser, testDevice)
	if want := "the answer names another device: [redacted]"; got.Reason != tasks.Protocol || got.Message != want {
		t.Errorf("got %v, want %q", got, want)
	}
}

func TestNothingPrintsASecret(t *testing.T) {
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
	app, err := NewAppAuthorizer("app", conceal(hush))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{BaseURL: "https://drive.example.com", Authorizer: auth}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	entry, _ := b.cache.Get(testUser)
	for _, v := range []any{token, tokenFile, secretFile, b, entry, auth, *auth, app, *app, cfg, c, c.auth, conceal(hush)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, hush) || strings.Contains(text, fmt.Sprintf("%x", hush)) {
				t.Errorf("%s of %T shows the secret: %s", verb, v, text)
			}
		}
	}
}

func TestMessageIsOneShortPrintableLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                               "",
		" a\r\n\t b\x00\x1b[31mc\u202e ": "a b [31mc",
		"caf\xe9":                        "caf\ufffd",
		strings.Repeat("ä", 200):         strings.Repeat("ä", 200),
		strings.Repeat("ä", 201):         strings.Repeat("ä", 199) + "…",
	} {
		got := oneLine(text)
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
		if utf8.RuneCountInString(got) > 200 {
			t.Errorf("%q is too long", got)
		}
	}
	for body, want := range map[string]string{
		`{"code":13000999,"msg":"one\n\u001b[2J` + strings.Repeat("Welcome ", 100) + `"}`: "one [2JWelcome Welcome",
		"<html>\n<body>\x1b[2J": "not KooDrive's envelope but 17 bytes of text/html",
		"":                      "not KooDrive's envelope but nothing",
	} {
		c := connect(t, serve(t, say(200, body)).URL, nil)
		if got := c.Release(t.Context(), testUser, testLock); !strings.HasPrefix(got.Message, want) {
			t.Errorf("%q: got %v", body, got)
		}
	}
}

func TestEscapedEchoesAreRecognized(t *testing.T) {
	t.Parallel()
	const secret = `tokVAL/ue+S3cret==zz&<"9`
	for name, echo := range map[string]string{
		"plain":            secret,
		"upper case":       strings.ToUpper(secret),
		"PHP's JSON":       `tokVAL\/ue+S3cret==zz&<\"9`,
		"twice escaped":    `tokVAL\\\/ue+S3cret==zz&<\\\"9`,
		"Gson":             `tokVAL/ue+S3cret\u003d\u003dzz\u0026\u003c\"9`,
		"URL":              `tokVAL%2Fue%2BS3cret%3D%3Dzz%26%3C%229`,
		"URL, lower case":  `tokVAL%2fue%2bS3cret%3d%3dzz%26%3c%229`,
		"plus for a space": `tokVAL/ue S3cret==zz&<"9`,
		"page":             `tokVAL&#x2F;ue&#43;S3cret&#61;&#x3d;zz&amp;&lt;&quot;9`,
		"URL, twice":       `tokVAL%252Fue%252bS3cret%253D%253Dzz%2526%253C%25229`,
		"entities":         `tokVAL&sol;ue&plus;S3cret&equals;&equals;zz&amp;&lt;&quot;9`,
		"page in a page":   `tokVAL&amp;#x2F;ue&amp;#43;S3cret==zz&amp;<"9`,
		"no semicolon":     `tokVAL&#x2Fue&#43S3cret==zz&<"9`,
		"script":           `tokVAL\x2fue\x2bS3cret==zz&<"9`,
		"every character":  `%74%6f%6bVAL/ue+S3cre&#116;==zz&<"\u0039`,
		"broken":           "tokVAL/ue+\n  S3cret==zz&<\"9",
		"page, padded":     `tokVAL&#047;ue&#x002B;S3cret==zz&#38;&#60;&#34;9`,
	} {
		text := replaceSecrets("before "+echo+" after", secret, "zz")
		if text != "before [redacted] after" {
			t.Errorf("%s: %q", name, text)
		}
	}
	if text := replaceSecrets("nothing here", secret, ""); text != "nothing here" {
		t.Errorf("%q", text)
	}
}

func FuzzReplaceSecrets(f *testing.F) {
	f.Add(`tok/en+=="&`, "before ")
	f.Add(`(?i)[a-z]*\`, "")
	f.Add("0A", "00AA")
	f.Fuzz(func(t *testing.T, secret, text string) {
		if checkSecret("it", secret) != nil {
			return
		}
		// What stood on both sides of an echo does not become one by its removal.
		const gap = "\x00" // in no secret
		if got := replaceSecrets(text+secret, secret); strings.Contains(strings.ReplaceAll(got, redacted, gap), secret) && !strings.Contains(redacted, secret) {
			t.Errorf("%q is left in %q", secret, got)
		}
	})
}

func TestPiecesOfASecretAreRecognized(t *testing.T) {
	t.Parallel()
	const secret = "tokVAL/ue+S3cret==zzQ9x8w7v6u5"
	for text, want := range map[string]string{
		"bad tokVAL/ue+S3cret==zzQ9x8w7v6u end": "bad [redacted] end",
		"bad kVAL/ue+S3cret==zzQ9x8w7v6u5 end":  "bad [redacted] end",
		"len=tokVAL/ue+S3... end":               "len=[redacted]... end",
		"TOKVAL/UE and zzQ9x8w7":                "[redacted] and [redacted]",
		"tokVAL/ stays, it is short":            "tokVAL/ stays, it is short",
		"äöü tokVAL/ue ß":                       "äöü [redacted] ß",
		"":                                      "",
	} {
		if got := replaceFragments(text, secret); got != want {
			t.Errorf("%q: %q; want %q", text, got, want)
		}
	}
	if got := replaceFragments("something", ""); got != "something" {
		t.Errorf("without a secret: %q", got)
	}
	srv := serve(t, say(200, `{"code":13000999,"msg":"token `+testToken[:len(testToken)-2]+` refused"}`))
	if got := connect(t, srv.URL, nil).Unbind(t.Context(), testUser, testDevice).Message; got != "token [redacted] refused" {
		t.Errorf("%q", got)
	}
}
