package simulator

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// checkAuthorization judges the Authorization header. No refusal repeats any
// part of it.
func (s *Simulator) checkAuthorization(x *exchange) *reply {
	switch s.cfg.Auth.Mode {
	case AuthToken:
		return s.checkToken(x)
	case AuthApp:
		if err := s.cfg.Auth.verifySignature(x); err != nil {
			return gateway(http.StatusUnauthorized, "APIG.0303", "Incorrect app authentication information: "+err.Error())
		}
	}
	return nil
}

func (s *Simulator) checkToken(x *exchange) *reply {
	before, after, _ := strings.Cut(s.cfg.Auth.TokenFormat, tokenPlaceholder)
	rest, ok := strings.CutPrefix(one(x.Header, "Authorization"), before)
	got, ok2 := strings.CutSuffix(rest, after)
	if !ok || !ok2 || got == "" || strings.ContainsAny(got, " \t") {
		return gateway(http.StatusUnauthorized, "APIG.0301", "Incorrect IAM authentication information: the token is missing or its format is wrong")
	}
	want := *s.token.Load()
	if want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) != 1 {
		return gateway(http.StatusUnauthorized, "APIG.0307", "The token must be updated")
	}
	return nil
}

// signedRequest is the Authorization header in app mode. It is as strict as the
// reference is exact: one space after the algorithm, none after the commas.
var signedRequest = regexp.MustCompile(`^` + signatureAlgorithm + ` AppId=(.*?),SignedHeaders=(.*?),Signature=([0-9A-Fa-f]{64})$`)

// verifySignature checks that the request is signed with the application's secret.
func (a Auth) verifySignature(x *exchange) error {
	parts := signedRequest.FindStringSubmatch(one(x.Header, "Authorization"))
	if parts == nil {
		return errors.New("want " + signatureAlgorithm + " AppId=…,SignedHeaders=…,Signature=…")
	}
	id, signed, signature := parts[1], parts[2], parts[3]
	if subtle.ConstantTimeCompare([]byte(id), []byte(a.AppID)) != 1 {
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
		value := x.Host // net/http keeps it apart from the other headers
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
	mac := hmac.New(sha256.New, []byte(a.AppSecret))
	mac.Write([]byte(signatureAlgorithm + "\n" + hex.EncodeToString(hash[:])))
	if !hmac.Equal([]byte(hex.EncodeToString(mac.Sum(nil))), []byte(strings.ToLower(signature))) {
		return errors.New("verify signature fail")
	}
	return nil
}
