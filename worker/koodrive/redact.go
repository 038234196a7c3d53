package koodrive

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

const redacted = "[redacted]"

// replaceSecrets replaces every secret in a text, however a server that echoes
// it has escaped it. The longest goes first, so that no part of it survives a
// shorter one.
func replaceSecrets(text string, secrets ...string) string {
	sorted := slices.Clone(secrets)
	slices.SortFunc(sorted, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	for _, s := range slices.Compact(sorted) {
		if s != "" {
			text = echoPattern(s).ReplaceAllLiteralString(text, redacted)
		}
	}
	return text
}

// fragment is the length from which a piece of a secret is treated as one: what
// is left of it can be guessed, or pieced together.
const fragment = 8

// replaceFragments replaces the pieces of a secret that a server has cut out of
// it, in any case.
func replaceFragments(text, secret string) string {
	text, secret = strings.ToValidUTF8(text, "?"), asciiLower(secret)
	lower := asciiLower(text)
	var out strings.Builder
	for i := 0; i < len(text); {
		n := 0
		for i+n+fragment <= len(text) && strings.Contains(secret, lower[i+n:i+n+fragment]) {
			n++
		}
		if n == 0 {
			out.WriteByte(text[i])
			i++
			continue
		}
		out.WriteString(redacted)
		i += n + fragment - 1
	}
	return out.String()
}

// asciiLower lowers letters and keeps the length, which strings.ToLower does
// not for every letter.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// echoPattern matches a secret in any case, broken by spaces or not, with each
// character as it stands or escaped: for a URL, once or more often (%2F, %252f,
// and + for a space or the other way round), for JSON or a script (\/, \u002f,
// \x2f), or for a page (&#47; and &#x2F;, with or without the semicolon, and by
// name).
func echoPattern(secret string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("(?i)")
	for i := range len(secret) {
		c := secret[i]
		if i > 0 {
			b.WriteString(`\s*`)
		}
		fmt.Fprintf(&b, `(?:\\*%s|%%(?:25)*%02x|\\+(?:u00|x)%02x|&(?:amp;)?#0*%d;?|&(?:amp;)?#x0*%x;?`, regexp.QuoteMeta(string(rune(c))), c, c, c, c)
		if names, ok := entities[c]; ok {
			fmt.Fprintf(&b, `|&(?:amp;)?(?:%s);`, names)
		}
		if c == '+' || c == ' ' {
			b.WriteString(`|[+ ]`)
		}
		b.WriteByte(')')
	}
	return regexp.MustCompile(b.String()) // every part of it is a literal, or fixed
}

// entities are the names that HTML has for the characters of tokens.
var entities = map[byte]string{
	'&': "amp", '<': "lt", '>': "gt", '"': "quot", '\'': "apos", '/': "sol", '+': "plus", '=': "equals",
	'_': "lowbar", '.': "period", ',': "comma", ':': "colon", ';': "semi", '*': "ast", '%': "percnt", '#': "num",
}

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
	const most = 64 << 10 // far more than will be shown
	if len(text) > most {
		text = text[:most]
	}
	if req == nil {
		return oneLine(c.auth.Redact(text))
	}
	authorization := req.Header.Get("Authorization")
	text = c.auth.Redact(replaceSecrets(text, sentSecrets(c.auth, authorization)...))
	if in, ok := c.auth.(insider); ok {
		text = replaceFragments(text, in.secretIn(authorization))
	}
	return oneLine(text)
}
