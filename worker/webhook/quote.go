package webhook

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kooworker/kooworker/internal/httpx"
)

const maxQuote = httpx.MaxLine // runes

// words are what no quote may hold, each as bare returns it.
type words []string

// secretWords returns the secrets, and what may be secret in a URL: the values
// of its query however short they are, and what is long in the names of its
// query and in its path, where some services put their tokens.
func secretWords(u *url.URL, secrets ...string) words {
	var ws words
	add := func(text string, shortest int) {
		if w := bare(text); len(w) >= shortest {
			ws = append(ws, w)
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
	return ws
}

func unescaped(text string) string {
	if plain, err := url.QueryUnescape(text); err == nil {
		return plain
	}
	return text
}

// quote returns a receiver's text without the white space around it if it is
// fit for one line of a log, and "" otherwise. It is shown whole or not at all:
// a receiver that says back what it was sent may disguise it, and what is cut
// out of a text says where something was.
func (ws words) quote(text string) string {
	text = strings.TrimSpace(text)
	switch {
	case !utf8.ValidString(text), utf8.RuneCountInString(text) > maxQuote:
		return ""
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return ""
	case strings.ContainsAny(text, `%&\`): // what escapes begin with, in URLs, pages and JSON
		return ""
	}
	plain := bare(text)
	for _, w := range ws {
		if httpx.ContainsFragment(plain, w) {
			return ""
		}
	}
	return text
}

// bare keeps letters and digits, in lower case, so that neither punctuation nor
// case nor line breaks hide a word.
func bare(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}
