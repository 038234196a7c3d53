package koodrive

import (
	"net/http"
	"strings"

	"github.com/kooworker/kooworker/internal/httpx"
)

// insider is an Authorizer that can tell the secret part of the Authorization
// that it has set.
type insider interface {
	secretIn(authorization string) string
}

// sentSecrets are what a server may echo of the Authorization that it was sent:
// the whole, what follows the scheme, and the secret part.
func sentSecrets(auth Authorizer, authorization string) []string {
	secrets := []string{authorization}
	if i := strings.IndexAny(authorization, " +"); i >= 0 {
		secrets = append(secrets, authorization[i+1:])
	}
	if in, ok := auth.(insider); ok {
		secrets = append(secrets, in.secretIn(authorization))
	}
	return secrets
}

// clean makes a text fit for Answer.Message: without secrets first, since half
// of a secret would not be recognized, and short then. req may be nil.
func (c *Client) clean(req *http.Request, text string) string {
	if text == "" {
		return ""
	}
	const most = 64 << 10 // far more than will be shown
	if len(text) > most {
		text = text[:most]
	}
	if req == nil {
		return httpx.OneLine(c.auth.Redact(text))
	}
	authorization := req.Header.Get("Authorization")
	text = c.auth.Redact(httpx.ReplaceSecrets(text, sentSecrets(c.auth, authorization)...))
	if in, ok := c.auth.(insider); ok {
		text = httpx.ReplaceFragments(text, in.secretIn(authorization))
	}
	return httpx.OneLine(text)
}
