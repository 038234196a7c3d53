package webhook

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kooworker/kooworker/internal/httpx"
)

const maxExcerpt = httpx.MaxLine // runes

// secretFragments finds what no excerpt may hold: the given secrets, and the parts
// of a URL that may be secret. These are the values of its query, however short,
// and the names of its query and the segments of its path if they are long: some
// services put their tokens there.
func secretFragments(u *url.URL, secrets ...string) *httpx.Redactor {
	var fragments []string
	add := func(text string, shortest int) {
		if word := normalize(text); len(word) >= shortest {
			fragments = append(fragments, word)
		}
	}
	for _, s := range secrets {
		add(s, httpx.Fragment)
	}
	for part := range strings.FieldsFuncSeq(u.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(part, "=")
		if value == "" {
			name, value = value, name // a query that is nothing but a token
		}
		add(unescaped(name), httpx.Fragment)
		add(unescaped(value), 1)
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		add(segment, httpx.Fragment)
	}
	return httpx.NewRedactor(fragments...)
}

func unescaped(text string) string {
	if plain, err := url.QueryUnescape(text); err == nil {
		return plain
	}
	return text
}

// safeExcerpt returns a receiver's text without the white space around it if it is
// fit for one line of a log, and "" otherwise. The text is shown whole or not at
// all: a receiver that sends back what it was sent may disguise it, and a gap in a
// text shows where a secret was.
func safeExcerpt(text string, secrets *httpx.Redactor) string {
	text = strings.TrimSpace(text)
	switch {
	case !utf8.ValidString(text), utf8.RuneCountInString(text) > maxExcerpt:
		return ""
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return ""
	case strings.ContainsAny(text, `%&\`): // what escapes begin with, in URLs, pages and JSON
		return ""
	case secrets.Finds(normalize(text)):
		return ""
	}
	return text
}

// normalize keeps letters and digits, in lower case, so that neither punctuation
// nor case nor line breaks hide a secret.
func normalize(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}
