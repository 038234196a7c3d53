package koodrive

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/kooworker/kooworker/internal/httpx"
)

const appAlgorithm = "HMAC-SHA256"

// AppAuthorizer signs every call with an application's secret.
type AppAuthorizer struct {
	hiddenFromFmt
	appID  string
	secret SecretSource
}

var (
	_ Authorizer          = (*AppAuthorizer)(nil)
	_ credentialExtractor = (*AppAuthorizer)(nil)
)

// NewAppAuthorizer returns an authorizer that signs with the secret of the
// application appID.
func NewAppAuthorizer(appID string, secret SecretSource) (*AppAuthorizer, error) {
	if secret == nil {
		return nil, errors.New("app authorizer: no secret; want StaticSecret or SecretFile")
	}
	if appID == "" || !httpx.PrintableASCII(appID) || strings.ContainsAny(appID, " ,=") {
		return nil, errors.New("app id: want visible ASCII without comma and equals sign")
	}
	return &AppAuthorizer{appID: appID, secret: secret}, nil
}

// Authorize implements Authorizer.
func (a *AppAuthorizer) Authorize(_ context.Context, req *http.Request, _ string) error {
	key, err := a.secret.Secret()
	if err != nil {
		return err
	}
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	canonical, signed := canonicalRequest(req.Method, req.URL.EscapedPath(), req.URL.RawQuery, map[string]string{
		"host":      host,
		"x-date":    req.Header.Get("X-Date"),
		"x-user-id": req.Header.Get("X-User-Id"),
	}, emptyBodyHash)
	// The vendor's other schemes have a time between the algorithm and the hash.
	// This one has none: X-Date is among the signed headers.
	signature := hmacHex(key, appAlgorithm+"\n"+sha256Hex(canonical))
	req.Header.Set("Authorization", fmt.Sprintf("%s AppId=%s,SignedHeaders=%s,%s%s", appAlgorithm, a.appID, signed, signatureMark, signature))
	return nil
}

// Renew implements Authorizer. A signature is never used twice, but the secret's
// file may have changed.
func (a *AppAuthorizer) Renew(string) { a.secret.Forget() }

// Redact implements Authorizer.
func (a *AppAuthorizer) Redact(text string) string { return a.secret.Redact(text) }

const signatureMark = "Signature="

func (a *AppAuthorizer) credentialIn(authorization string) string {
	_, signature, _ := strings.Cut(authorization, signatureMark)
	return signature
}

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func hmacHex(key, text string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}
