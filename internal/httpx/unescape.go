package httpx

import (
	"iter"
	"strings"
)

// escapeMarks are the characters that escapes begin with.
const escapeMarks = `%&\`

// unescape yields the bytes of a text with its escapes undone, and the part of the
// text that each byte stands for.
func unescape(text string) iter.Seq2[byte, span] {
	lowered := []byte(text)
	for i, c := range lowered {
		if 'A' <= c && c <= 'Z' {
			lowered[i] = c + 'a' - 'A'
		}
	}
	text = string(lowered)
	return func(yield func(byte, span) bool) {
		for i := 0; i < len(text); {
			char, length := escapeAt(text[i:])
			if length == 0 {
				char, length = text[i], 1
			}
			if !yield(char, span{i, i + length}) {
				return
			}
			i += length
		}
	}
}

// escapeAt returns the character that an escape at the beginning of a text in
// lower case stands for, and the escape's length; 0 if the text begins with none.
//
// Escapes are what servers do to a text that they send back: those of URLs, once
// or more often (%2f, %252f), of JSON and scripts (\/, \u002f and \x2f, with one
// backslash or more), and of pages, by number (&#47; and &#x2f;, with or without
// the semicolon) and by name (&sol;), each of them once or more often (&amp;sol;).
func escapeAt(text string) (char byte, length int) {
	var rest string // what follows the character
	switch text[0] {
	case '%':
		char, rest = urlEscape(text[1:])
	case '\\':
		char, rest = scriptEscape(text[1:])
	case '&':
		char, rest = pageEscape(text[1:])
	}
	if char == 0 {
		return 0, 0
	}
	return char, len(text) - len(rest)
}

// urlEscape takes what follows a percent sign.
func urlEscape(text string) (char byte, rest string) {
	for strings.HasPrefix(text, "25") { // a percent sign, which may begin the next escape
		if _, _, ok := number(text[2:], 2, 16); !ok {
			break
		}
		text = text[2:]
	}
	char, rest, _ = number(text, 2, 16)
	return char, rest
}

// scriptEscape takes what follows a backslash.
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

// pageEscape takes what follows an ampersand.
func pageEscape(text string) (char byte, rest string) {
	for strings.HasPrefix(text, "amp;") { // an ampersand, which may begin the next escape
		char, text = '&', text[len("amp;"):]
	}
	if digits, ok := strings.CutPrefix(text, "#x"); ok {
		if c, rest, ok := number(strings.TrimLeft(digits, "0"), 2, 16); ok && isPrintable(c) {
			return c, strings.TrimPrefix(rest, ";")
		}
	}
	if digits, ok := strings.CutPrefix(text, "#"); ok {
		// The number of a printable character of ASCII has three digits if it
		// begins with 1, else two. So it is clear where it ends.
		digits = strings.TrimLeft(digits, "0")
		length := 2
		if strings.HasPrefix(digits, "1") {
			length = 3
		}
		if c, rest, ok := number(digits, length, 10); ok && isPrintable(c) {
			return c, strings.TrimPrefix(rest, ";")
		}
	}
	if name, _, ok := strings.Cut(text[:min(len(text), len("percnt;"))], ";"); ok && entities[name] != 0 {
		return entities[name], text[len(name)+1:]
	}
	return char, text
}

// number reads the number that the first digits of a text are.
func number(text string, digits, base int) (n byte, rest string, ok bool) {
	if len(text) < digits {
		return 0, text, false
	}
	value := 0
	for _, c := range []byte(text[:digits]) {
		switch {
		case '0' <= c && c <= '9':
			value = value*base + int(c-'0')
		case 'a' <= c && c <= 'f' && base == 16:
			value = value*base + int(c-'a') + 10
		default:
			return 0, text, false
		}
	}
	return byte(value), text[digits:], value <= 0xff
}

func isPrintable(c byte) bool { return ' ' <= c && c <= '~' }
