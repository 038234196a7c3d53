package httpx

import (
	"html"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestRedactor_EscapedEchoes(t *testing.T) {
	t.Parallel()
	const secret = `tokVAL/ue+S3cret==zz&<"9`
	for name, echo := range map[string]string{
		"plain":            secret,
		"upper case":       strings.ToUpper(secret),
		"PHP's JSON":       `tokVAL\/ue+S3cret==zz&<\"9`,
		"twice escaped":    `tokVAL\\\/ue+S3cret==zz&<\\\"9`,
		"Gson":             `tokVAL/ue+S3cret\u003d\u003dzz\u0026\u003c\"9`,
		"URL":              `tokVAL%2Fue%2BS3cret%3D%3Dzz%26%3C%229`,
		"URL, lower case":  `tokVAL%2fue%2bS3cret%3d%3dzz%26%3c%229`,
		"plus for a space": `tokVAL/ue S3cret==zz&<"9`,
		"page":             `tokVAL&#x2F;ue&#43;S3cret&#61;&#x3d;zz&amp;&lt;&quot;9`,
		"URL, twice":       `tokVAL%252Fue%252bS3cret%253D%253Dzz%2526%253C%25229`,
		"entities":         `tokVAL&sol;ue&plus;S3cret&equals;&equals;zz&amp;&lt;&quot;9`,
		"page in a page":   `tokVAL&amp;#x2F;ue&amp;#43;S3cret==zz&amp;<"9`,
		"no semicolon":     `tokVAL&#x2Fue&#43S3cret==zz&<"9`,
		"script":           `tokVAL\x2fue\x2bS3cret==zz&<"9`,
		"every character":  `%74%6f%6bVAL/ue+S3cre&#116;==zz&<"\u0039`,
		"broken":           "tokVAL/ue+\n  S3cret==zz&<\"9",
		"page, padded":     `tokVAL&#047;ue&#x002B;S3cret==zz&#38;&#60;&#34;9`,
	} {
		text := NewRedactor(secret, "zz").Redact("before " + echo + " after")
		if text != "before [redacted] after" {
			t.Errorf("%s: got %q, want nothing but the secret replaced", name, text)
		}
	}
	if text := NewRedactor(secret, "").Redact("nothing here"); text != "nothing here" {
		t.Errorf("without a secret in the text: got %q, want it unchanged", text)
	}
}

// gap takes the place of a replaced secret. It is in no secret, so that the text on
// both sides of it does not become one.
const gap = "\x00"

func FuzzRedactor(f *testing.F) {
	f.Add(`tok/en+=="&`, "before ")
	f.Add(`(?i)[a-z]*\`, "")
	f.Add("0A", "00AA")
	f.Add("dG9r+ZW4+/w==&", "%26")
	f.Fuzz(func(t *testing.T, secret, text string) {
		if secret == "" || !PrintableASCII(secret) || strings.Contains(Redacted, secret) {
			return
		}
		r := NewRedactor(secret)
		got := strings.ReplaceAll(r.Redact(text+secret), Redacted, gap)
		if strings.Contains(got, secret) {
			t.Errorf("%q is left in %q", secret, got)
		}
		for i := range len(secret) - Fragment + 1 {
			piece := secret[i : i+Fragment]
			if got := strings.ReplaceAll(r.Redact(piece+text), Redacted, gap); pieceOf(secret, got) {
				t.Errorf("a piece of %q is left in %q", secret, got)
			}
		}
	})
}

// pieceOf reports whether a text holds a piece of a secret, in any case.
func pieceOf(secret, text string) bool {
	secret, text = strings.ToLower(secret), strings.ToLower(text)
	for i := range len(secret) - Fragment + 1 {
		if strings.Contains(text, secret[i:i+Fragment]) {
			return true
		}
	}
	return false
}

func TestRedactor_Pieces(t *testing.T) {
	t.Parallel()
	const secret = "tokVAL/ue+S3cret==zzQ9x8w7v6u5"
	for text, want := range map[string]string{
		"bad tokVAL/ue+S3cret==zzQ9x8w7v6u end": "bad [redacted] end",
		"bad kVAL/ue+S3cret==zzQ9x8w7v6u5 end":  "bad [redacted] end",
		"len=tokVAL/ue+S3... end":               "len=[redacted]... end",
		"TOKVAL/UE and zzQ9x8w7":                "[redacted] and [redacted]",
		"tokVAL/ stays, it is short":            "tokVAL/ stays, it is short",
		"äöü tokVAL/ue ß":                       "äöü [redacted] ß",
		"":                                      "",
	} {
		if got := NewRedactor(secret).Redact(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := NewRedactor("").Redact("something"); got != "something" {
		t.Errorf("without a secret: got %q, want it unchanged", got)
	}
}

func TestRedactor_OptionalBytes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ secret, text, want string }{
		// Eight bytes as they stand are a piece, and so are eight that are not optional.
		{"ab+cd+efghij", "has cd+efghi at end", "has [redacted] at end"},
		{"ab+cd+efghij", "has cd efghij at end", "has [redacted] at end"},
		{"ab+cd+efghij", "has cdefghij at end", "has [redacted] at end"},
		{"ab+cd+efghij", "has cd%20ef\ngh ij at end", "has [redacted] at end"},
		{"ab+cd+efghij", "has cd ef g at end", "has cd ef g at end"},
		{"a+++b+++c+++d+++e", "a+++b+++", "[redacted]"},
		{"a+++b+++c+++d+++e", "abcd", "abcd"},
		{"a+++b+++c+++d+++e", "abcde", "[redacted]"},
		// Short secrets are found as a whole.
		{"a b", "a b, a+b, a%20b, ab and a", "[redacted], [redacted], [redacted], [redacted] and a"},
		{"+ +", "a + + b", "a [redacted] b"},
	} {
		if got := NewRedactor(tc.secret).Redact(tc.text); got != tc.want {
			t.Errorf("%q in %q: got %q, want %q", tc.secret, tc.text, got, tc.want)
		}
	}
}

// A secret that looks escaped is escaped once more on its way.
func TestRedactor_SecretThatLooksEscaped(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{`100%25sure-of-it`, `key=&amp;more%20of it`, `a\u0041bcdefgh`, "%41"} {
		r := NewRedactor(secret)
		for name, echo := range map[string]string{
			"plain": secret,
			"URL":   url.QueryEscape(secret),
			"twice": url.QueryEscape(url.QueryEscape(secret)),
			"page":  html.EscapeString(secret),
			"JSON":  strings.ReplaceAll(secret, `\`, `\\`),
		} {
			if got := r.Redact("<" + echo + ">"); got != "<[redacted]>" || !r.Finds(echo) {
				t.Errorf("%s of %q: got %q, want it replaced", name, secret, got)
			}
		}
	}
}

func TestRedactor_Finds(t *testing.T) {
	t.Parallel()
	r := NewRedactor("tokVAL/ue+S3cret", "hi", "+")
	for text, want := range map[string]bool{
		"":                false,
		"tokval":          false,
		"tokval/u":        true,
		"%74okval/u":      true,
		"oh hi":           true,
		"one + one":       true,
		"none is in here": false,
	} {
		if got := r.Finds(text); got != want {
			t.Errorf("%q: got %t, want %t", text, got, want)
		}
	}
}

// No text takes more time than its length explains.
func TestRedactor_LongTexts(t *testing.T) {
	t.Parallel()
	r := NewRedactor(strings.Repeat("tokVAL/ue+S3cret", 256))
	for _, piece := range []string{
		"%25", "%", "%2", `\`, `\u00`, "&amp;", "&", "&#", "&#0", "0", "&#x0", "&amp;#x", "a", "tokVAL/ue+S3cret", " ", "+;",
	} {
		text := "&#x" + strings.Repeat(piece, 64<<10/len(piece))
		began := time.Now()
		r.Redact(text)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%q: took %s for 64 KB, want milliseconds", piece, took)
		}
	}
}
