package simulator

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// authorizer judges the Authorization header. No refusal repeats any of it.
type authorizer interface {
	authorize(x *exchange) *reply
}

var (
	_ authorizer = noAuth{}
	_ authorizer = (*tokenAuth)(nil)
	_ authorizer = appAuth{}
)

// noAuth accepts every request.
type noAuth struct{}

func (noAuth) authorize(*exchange) *reply { return nil }

// tokenAuth requires an access token, in the format that the deployment uses.
type tokenAuth struct {
	before, after string
	token         atomic.Pointer[string]
}

func newTokenAuth(a Auth) *tokenAuth {
	t := &tokenAuth{}
	t.before, t.after, _ = strings.Cut(a.TokenFormat, tokenPlaceholder)
	t.set(a.Token)
	return t
}

func (t *tokenAuth) set(token string) { t.token.Store(&token) }

func (t *tokenAuth) authorize(x *exchange) *reply {
	rest, ok := strings.CutPrefix(one(x.Header, "Authorization"), t.before)
	got, ok2 := strings.CutSuffix(rest, t.after)
	if !ok || !ok2 || got == "" || strings.ContainsAny(got, " \t") {
		return gateway(http.StatusUnauthorized, "APIG.0301", "Incorrect IAM authentication information: the token is missing or its format is wrong")
	}
	want := *t.token.Load()
	if want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) != 1 {
		return gateway(http.StatusUnauthorized, "APIG.0307", "The token must be updated")
	}
	return nil
}

// appAuth requires each request to be signed with the application's secret.
type appAuth struct{ id, secret string }

func (a appAuth) authorize(x *exchange) *reply {
	if err := a.verify(x); err != nil {
		return gateway(http.StatusUnauthorized, "APIG.0303", "Incorrect app authentication information: "+err.Error())
	}
	return nil
}

func (a appAuth) verify(x *exchange) error {
	id, signed, signature, err := parseAuthorization(one(x.Header, "Authorization"))
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(id), []byte(a.id)) != 1 {
		return errors.New("app not found")
	}
	names := strings.Split(signed, ";")
	switch {
	case signed != strings.ToLower(signed) || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names):
		return errors.New("SignedHeaders must be in lower case, sorted, each name once")
	case !slices.Contains(names, "x-date"), !slices.Contains(names, "x-user-id"):
		return errors.New("SignedHeaders must hold x-date and x-user-id")
	}
	headers := make([]string, len(names))
	for i, name := range names {
		value := x.Host // which net/http keeps apart from the other headers
		if name != "host" {
			value = one(x.Header, http.CanonicalHeaderKey(name))
		}
		if value == "" {
			return errors.New("a header in SignedHeaders must be sent once, and not empty")
		}
		headers[i] = name + ":" + strings.TrimSpace(value)
	}
	canonical, err := canonicalRequest(x.Method, x.URL.EscapedPath(), x.URL.RawQuery, headers, signed, x.body)
	if err != nil {
		return err
	}
	hash := sha256.Sum256([]byte(canonical))
	mac := hmac.New(sha256.New, []byte(a.secret))
	mac.Write([]byte(signatureAlgorithm + "\n" + hex.EncodeToString(hash[:])))
	if !hmac.Equal(mac.Sum(nil), signature) {
		return errors.New("verify signature fail")
	}
	return nil
}

// parseAuthorization takes the header apart. It is as strict as the reference
// is exact: one space after the algorithm, none after the commas.
func parseAuthorization(value string) (id, signed string, signature []byte, err error) {
	malformed := errors.New("want " + signatureAlgorithm + " AppId=…,SignedHeaders=…,Signature=…")
	rest, ok := strings.CutPrefix(value, signatureAlgorithm+" AppId=")
	if !ok {
		return "", "", nil, malformed
	}
	id, rest, ok = strings.Cut(rest, ",SignedHeaders=")
	if !ok {
		return "", "", nil, malformed
	}
	signed, rest, ok = strings.Cut(rest, ",Signature=")
	if !ok {
		return "", "", nil, malformed
	}
	if signature, err = hex.DecodeString(rest); err != nil || len(signature) != sha256.Size {
		return "", "", nil, malformed
	}
	return id, signed, signature, nil
}
