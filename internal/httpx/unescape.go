package httpx

import (
	"strconv"
	"strings"
)

// escapeMarks are the characters that escapes begin with.
const escapeMarks = `%&\`

// unescape returns the view of a text in lower case with its escapes undone, and
// without optional bytes.
//
// Escapes are what servers do to a text that they send back: those of URLs, once
// or more often (%2f, %252f), of JSON and scripts (\/, \u002f and \x2f, with one
// backslash or more), and of pages, by number (&#47; and &#x2f;, with or without
// the semicolon) and by name (&sol;), each of them once or more often (&amp;sol;).
func unescape(text string) view {
	v := newView(len(text))
	for i := 0; i < len(text); {
		char, rest := text[i], text[i+1:]
		switch char {
		case '%':
			char, rest = urlEscape(rest)
		case '\\':
			char, rest = scriptEscape(rest)
		case '&':
			char, rest = pageEscape(rest)
		}
		end := len(text) - len(rest)
		v.append(lower(char), span{i, end})
		i = end
	}
	return v
}

// urlEscape returns what a percent sign with the text after it stands for, and the
// rest of the text.
func urlEscape(text string) (char byte, rest string) {
	for strings.HasPrefix(text, "25") { // a percent sign, which may begin the next escape
		if _, _, ok := number(text[2:], 2, 16); !ok {
			break
		}
		text = text[2:]
	}
	if char, rest, ok := number(text, 2, 16); ok {
		return char, rest
	}
	return '%', text
}

// scriptEscape is urlEscape for a backslash.
func scriptEscape(text string) (char byte, rest string) {
	text = strings.TrimLeft(text, `\`)
	for _, mark := range []string{"x", "u00"} {
		if digits, ok := strings.CutPrefix(text, mark); ok {
			if char, rest, ok := number(digits, 2, 16); ok {
				return char, rest
			}
		}
	}
	return '\\', text
}

// entities are the names that HTML has for the characters of tokens.
var entities = map[string]byte{
	"amp": '&', "lt": '<', "gt": '>', "quot": '"', "apos": '\'', "sol": '/', "plus": '+', "equals": '=',
	"lowbar": '_', "period": '.', "comma": ',', "colon": ':', "semi": ';', "ast": '*', "percnt": '%', "num": '#',
}

// pageEscape is urlEscape for an ampersand.
func pageEscape(text string) (char byte, rest string) {
	for strings.HasPrefix(text, "amp;") { // an ampersand, which may begin the next escape
		text = text[len("amp;"):]
	}
	name, _, _ := strings.Cut(text[:min(len(text), len("percnt;"))], ";")
	if char, ok := entities[name]; ok && len(name) < len(text) {
		return char, text[len(name)+1:]
	}
	digits, isNumber := strings.CutPrefix(text, "#")
	if !isNumber {
		return '&', text
	}
	// The number of a printable character of ASCII has two digits, or three if it
	// is decimal and begins with 1. So it is clear where it ends.
	length, base := 2, 10
	if hex, ok := strings.CutPrefix(digits, "x"); ok {
		digits, base = hex, 16
	}
	if digits = strings.TrimLeft(digits, "0"); base == 10 && strings.HasPrefix(digits, "1") {
		length = 3
	}
	if char, rest, ok := number(digits, length, base); ok {
		return char, rest
	}
	return '&', text
}

// number reads the number that the first digits of a text are.
func number(text string, digits, base int) (n byte, rest string, ok bool) {
	if len(text) < digits {
		return 0, "", false
	}
	value, err := strconv.ParseUint(text[:digits], base, 8)
	return byte(value), text[digits:], err == nil
}
