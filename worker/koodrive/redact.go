package koodrive

import (
	"cmp"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

const redacted = "[redacted]"

// replaceSecrets replaces every secret in a text, also where a server that
// echoes it has escaped it for a URL, for a page or, as Java's Gson does, for a
// script. The longest goes first, so that no part of it survives a shorter one.
func replaceSecrets(text string, secrets ...string) string {
	var forms []string
	for _, s := range secrets {
		if s != "" {
			forms = append(forms, s, url.QueryEscape(s), url.PathEscape(s), html.EscapeString(s), gsonEscaper.Replace(s))
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	for _, form := range slices.Compact(forms) {
		text = strings.ReplaceAll(text, form, redacted)
	}
	return text
}

var gsonEscaper = strings.NewReplacer("=", `\u003d`, "&", `\u0026`, "<", `\u003c`, ">", `\u003e`, "'", `\u0027`)

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

const maxMessage = 200 // runes

// oneLine makes a text fit for one line of a log: what is not printable becomes
// a space, runs of spaces become one, and the end is cut off.
func oneLine(text string) string {
	line := make([]rune, 0, maxMessage+1)
	space := false
	for _, r := range text {
		if !unicode.IsPrint(r) || r == ' ' {
			space = len(line) > 0
			continue
		}
		if space {
			line = append(line, ' ')
			space = false
		}
		line = append(line, r)
		if len(line) > maxMessage {
			return string(line[:maxMessage-1]) + "…"
		}
	}
	return string(line)
}

// clean makes a text fit for Answer.Message: without secrets first, since half
// of a secret would not be recognized, and short then. req may be nil.
func (c *Client) clean(req *http.Request, text string) string {
	if text == "" {
		return ""
	}
	if req != nil {
		text = replaceSecrets(text, sentSecrets(c.auth, req.Header.Get("Authorization"))...)
	}
	return oneLine(c.auth.Redact(text))
}
