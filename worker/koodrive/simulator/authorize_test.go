package simulator_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestCheckToken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		format, token, header, refusal string
	}{
		{"", "", "Bearer+abc", ""},
		{"", "", "", "APIG.0301"},
		{"", "", "Bearer+", "APIG.0301"},
		{"", "", "Bearer abc", "APIG.0301"},
		{"", "", "bearer+abc", "APIG.0301"},
		{"", "", "Bearer+ abc", "APIG.0301"},
		{"", "abc", "Bearer+abc", ""},
		{"", "abc", "Bearer+abd", "APIG.0307"},
		{"", "abc", "Bearer+abcd", "APIG.0307"},
		{"AT {token}", "abc", "AT abc", ""},
		{"{token}", "abc", "abc", ""},
		{"{token}", "abc", "Bearer+abc", "APIG.0307"},
		{`token="{token}"`, "abc", `token="abc"`, ""},
		{`token="{token}"`, "abc", `token="abc`, "APIG.0301"},
	} {
		b := setup(t, simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, TokenFormat: tc.format, Token: tc.token}})
		r := b.request(http.MethodGet, prefix+"/device", "")
		r.Header.Set("Authorization", tc.header)
		a := b.mustSend(r)
		if tc.refusal == "" {
			a.wantKooDrive(t, 200, 0)
			continue
		}
		a.wantGateway(t, 401, tc.refusal)
		if got := b.Stats().AuthRefusals; got != 1 {
			t.Errorf("stats count %d refusals of %q; want 1", got, tc.header)
		}
	}
}

func TestSetToken_RefusesOldToken(t *testing.T) {
	t.Parallel()
	b := setup(t, simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, Token: "one"}})
	list := func(token string) answer {
		r := b.request(http.MethodGet, prefix+"/device", "")
		r.Header.Set("Authorization", "Bearer+"+token)
		return b.mustSend(r)
	}
	list("one").wantKooDrive(t, 200, 0)
	b.SetToken("two")
	list("one").wantGateway(t, 401, "APIG.0307")
	list("two").wantKooDrive(t, 200, 0)
}

// TestCanonicalRequest_PublishedVector compares with the canonical request that
// the vendor publishes for a sibling of this scheme.
func TestCanonicalRequest_PublishedVector(t *testing.T) {
	t.Parallel()
	canonical, err := simulator.CanonicalRequest(http.MethodGet,
		"/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs",
		"marker=13551d6b-755d-4757-b956-536f674975c0&limit=2",
		[]string{"content-type:application/json", "host:service.region.example.com", "x-sdk-date:20191115T033655Z"},
		"content-type;host;x-sdk-date", nil)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte(canonical))
	if got, want := hex.EncodeToString(hash[:]), "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a"; got != want {
		t.Errorf("hash is %s; want %s; canonical request:\n%s", got, want, canonical)
	}
	mac := hmac.New(sha256.New, []byte("MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc"))
	_, _ = fmt.Fprintf(mac, "SDK-HMAC-SHA256\n20191115T033655Z\n%x", hash)
	if got, want := hex.EncodeToString(mac.Sum(nil)), "7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe"; got != want {
		t.Errorf("signature is %s; want %s", got, want)
	}
}

const appID, appSecret = "app-1", "app-secret"

// signature is what a request to sign is made of, with its canonical parts
// written out by hand. It is the tests' own signer, after the API page.
type signature struct {
	method, uri, query, headers, signed, body string
}

func (s signature) header(secret string) string {
	body := sha256.Sum256([]byte(s.body))
	request := s.method + "\n" + s.uri + "\n" + s.query + "\n" + s.headers + "\n" + s.signed + "\n" + hex.EncodeToString(body[:])
	hash := sha256.Sum256([]byte(request))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("HMAC-SHA256\n" + hex.EncodeToString(hash[:])))
	return "HMAC-SHA256 AppId=" + appID + ",SignedHeaders=" + s.signed + ",Signature=" + hex.EncodeToString(mac.Sum(nil))
}

// signed returns an unbind's request and what its signature is made of.
func signed(b *bundle) (*http.Request, signature) {
	b.t.Helper()
	r := b.request(http.MethodDelete, prefix+"/device/d-1", "")
	return r, signature{
		method: "DELETE", uri: prefix + "/device/d-1/", signed: "host;x-date;x-user-id",
		headers: "host:" + r.URL.Host + "\nx-date:" + r.Header.Get("X-Date") + "\nx-user-id:" + user + "\n",
	}
}

func setupApp(t *testing.T) *bundle {
	t.Helper()
	return setup(t, simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthApp, AppID: appID, AppSecret: appSecret}})
}

func TestVerifySignature_Accepts(t *testing.T) {
	t.Parallel()
	b := setupApp(t)
	b.Bind(user, simulator.Device{DeviceID: "d-1"})
	r, s := signed(b)
	r.Header.Set("Authorization", s.header(appSecret))
	b.mustSend(r).wantKooDrive(t, 200, 0)

	t.Log("only the published example signs host, and the wire may spell the path in another way")
	b.Bind(user, simulator.Device{DeviceID: "d-1"})
	r, s = signed(b)
	r.URL.Path, r.URL.RawPath = prefix+"/device/d-1", prefix+"/device/%64%2d1"
	s.signed = "x-date;x-user-id"
	_, s.headers, _ = strings.Cut(s.headers, "\n")
	r.Header.Set("Authorization", s.header(appSecret))
	b.mustSend(r).wantKooDrive(t, 200, 0)

	t.Log("the signature covers the query and the body")
	r = b.request(http.MethodPost, prefix+"/device?b=%7e+%2a&a&b=1", `{"machineCode":"m"}`)
	r.Header.Set("Authorization", signature{
		method: "POST", uri: prefix + "/device/", query: "a=&b=1&b=~%20%2A", signed: "x-date;x-user-id",
		headers: "x-date:" + r.Header.Get("X-Date") + "\nx-user-id:" + user + "\n", body: `{"machineCode":"m"}`,
	}.header(appSecret))
	b.mustSend(r).wantKooDrive(t, 200, 0)
}

func TestVerifySignature_Refuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*http.Request, *signature) string{
		"none":         func(_ *http.Request, s *signature) string { return "" },
		"a token":      func(_ *http.Request, s *signature) string { return "Bearer+abc" },
		"other secret": func(_ *http.Request, s *signature) string { return s.header("other") },
		"other app": func(_ *http.Request, s *signature) string {
			return strings.Replace(s.header(appSecret), appID, "app-2", 1)
		},
		"two spaces":     func(_ *http.Request, s *signature) string { return strings.Replace(s.header(appSecret), " ", "  ", 1) },
		"space at comma": func(_ *http.Request, s *signature) string { return strings.ReplaceAll(s.header(appSecret), ",", ", ") },
		"cut off":        func(_ *http.Request, s *signature) string { return s.header(appSecret)[:100] },
		"no slash": func(_ *http.Request, s *signature) string {
			s.uri = strings.TrimSuffix(s.uri, "/")
			return s.header(appSecret)
		},
		"other method": func(_ *http.Request, s *signature) string { s.method = "GET"; return s.header(appSecret) },
		"other body":   func(_ *http.Request, s *signature) string { s.body = "{}"; return s.header(appSecret) },
		"no blank line": func(_ *http.Request, s *signature) string {
			s.headers = strings.TrimSuffix(s.headers, "\n")
			return s.header(appSecret)
		},
		"date changed": func(r *http.Request, s *signature) string {
			r.Header.Set("X-Date", "20260131T082959Z")
			return s.header(appSecret)
		},
		"user changed": func(r *http.Request, s *signature) string {
			r.Header.Set("X-User-Id", "u-2")
			return s.header(appSecret)
		},
		"user doubled": func(r *http.Request, s *signature) string {
			r.Header.Add("X-User-Id", "u-2")
			return s.header(appSecret)
		},
		"query added": func(r *http.Request, s *signature) string { r.URL.RawQuery = "a=1"; return s.header(appSecret) },
		"user not signed": func(_ *http.Request, s *signature) string {
			s.signed, s.headers = "x-date", strings.SplitAfter(s.headers, "\n")[1]
			return s.header(appSecret)
		},
		"unsorted": func(_ *http.Request, s *signature) string {
			s.signed = "x-date;host;x-user-id"
			return s.header(appSecret)
		},
		"upper case": func(_ *http.Request, s *signature) string {
			s.signed = "Host;x-date;x-user-id"
			return s.header(appSecret)
		},
		"signed but not sent": func(_ *http.Request, s *signature) string {
			s.signed, s.headers = s.signed+";x-zone", s.headers+"x-zone:\n"
			return s.header(appSecret)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupApp(t)
			r, s := signed(b)
			r.Header.Set("Authorization", spoil(r, &s))
			a := b.mustSend(r)
			a.wantGateway(t, 401, "APIG.0303")
			if strings.Contains(a.Body, s.header(appSecret)) {
				t.Errorf("the refusal %s repeats the credential; want none of it", a.Body)
			}
		})
	}
}
