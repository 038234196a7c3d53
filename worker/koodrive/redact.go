package koodrive

import (
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/kooworker/kooworker/internal/httpx"
)

// credentialExtractor is an Authorizer that can tell the secret part of the
// Authorization that it has set.
type credentialExtractor interface {
	credentialIn(authorization string) string
}

// sentSecrets returns what is secret in an Authorization. If the authorizer cannot
// tell, the whole Authorization is secret. So is the part after the scheme by
// itself, since it may be too short to be found as a piece of the whole.
func sentSecrets(auth Authorizer, authorization string) []string {
	if extractor, ok := auth.(credentialExtractor); ok {
		return []string{extractor.credentialIn(authorization)}
	}
	secrets := []string{authorization}
	if i := strings.IndexAny(authorization, " +"); i >= 0 {
		secrets = append(secrets, authorization[i+1:])
	}
	return secrets
}

// sentRedactors returns a function that prepares the redactor for an
// Authorization. It keeps the last one, since most calls send the same credential
// as the one before. Nothing of it is in a field, so that fmt cannot show it.
func sentRedactors(auth Authorizer) func(authorization string) *httpx.Redactor {
	var (
		mu       sync.Mutex
		last     string
		redactor *httpx.Redactor
	)
	return func(authorization string) *httpx.Redactor {
		mu.Lock()
		defer mu.Unlock()
		if redactor == nil || last != authorization {
			last, redactor = authorization, httpx.NewRedactor(sentSecrets(auth, authorization)...)
		}
		return redactor
	}
}

const (
	// maxShown is how many bytes a text has at most before it is cut to a message.
	maxShown = (httpx.MaxLine + 1) * utf8.UTFMax
	// lookAhead is more than an escaped piece of a secret takes.
	lookAhead = 256
	// maxRead is how much of a text is read for a message. Redaction may shorten it
	// to far less.
	maxRead = 64 << 10
)

// sanitize makes a text fit for Answer.Message: without secrets, and short. req is
// nil if no credential was set.
func (c *Client) sanitize(req *http.Request, text string) string {
	// The beginning is enough, unless it holds secrets or much white space. A piece
	// of a secret that begins there ends within lookAhead.
	if len(text) > maxShown+lookAhead {
		beginning := text[:maxShown+lookAhead]
		line := httpx.OneLine(text[:maxShown])
		if full := utf8.RuneCountInString(line) == httpx.MaxLine && strings.HasSuffix(line, "…"); full && c.redact(req, beginning) == beginning {
			return line
		}
	}
	return httpx.OneLine(c.redact(req, text[:min(len(text), maxRead)]))
}

// redact comes before a text is shortened. The other order would cut a piece of a
// secret in half, and half a piece is not recognized.
func (c *Client) redact(req *http.Request, text string) string {
	if req != nil {
		text = c.redactorOf(req.Header.Get("Authorization")).Redact(text)
	}
	return c.auth.Redact(text)
}
