package httpx

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// ReplaceSecrets replaces every secret in a text, however a server that echoes
// it has escaped it. The longest goes first, so that no part of it survives a
// shorter one.
func ReplaceSecrets(text string, secrets ...string) string {
	sorted := slices.Clone(secrets)
	slices.SortFunc(sorted, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	for _, s := range slices.Compact(sorted) {
		if s != "" {
			text = echoPattern(s).ReplaceAllLiteralString(text, Redacted)
		}
	}
	return text
}

// Fragment is the length in bytes from which a piece of a secret is treated as
// the secret: what is missing can be guessed, or pieced together.
const Fragment = 8

// ContainsFragment reports whether a text holds a secret, or a fragment of it.
func ContainsFragment(text, secret string) bool {
	n := min(len(secret), Fragment)
	for i := 0; i+n <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+n]) {
			return true
		}
	}
	return false
}

// ReplaceFragments replaces the pieces of a secret that a server has cut out of
// it, in any case.
func ReplaceFragments(text, secret string) string {
	text, secret = strings.ToValidUTF8(text, "?"), asciiLower(secret)
	lower := asciiLower(text)
	var out strings.Builder
	for i := 0; i < len(text); {
		n := 0
		for i+n+Fragment <= len(text) && strings.Contains(secret, lower[i+n:i+n+Fragment]) {
			n++
		}
		if n == 0 {
			out.WriteByte(text[i])
			i++
			continue
		}
		out.WriteString(Redacted)
		i += n + Fragment - 1
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
