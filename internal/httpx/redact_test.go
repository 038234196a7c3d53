package httpx

import (
	"strings"
	"testing"
)

func TestEscapedEchoesAreRecognized(t *testing.T) {
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
		text := ReplaceSecrets("before "+echo+" after", secret, "zz")
		if text != "before [redacted] after" {
			t.Errorf("%s: %q", name, text)
		}
	}
	if text := ReplaceSecrets("nothing here", secret, ""); text != "nothing here" {
		t.Errorf("%q", text)
	}
}

func FuzzReplaceSecrets(f *testing.F) {
	f.Add(`tok/en+=="&`, "before ")
	f.Add(`(?i)[a-z]*\`, "")
	f.Add("0A", "00AA")
	f.Fuzz(func(t *testing.T, secret, text string) {
		if secret == "" || !PrintableASCII(secret) {
			return
		}
		// What stood on both sides of an echo does not become one by its removal.
		const gap = "\x00" // in no secret
		if got := ReplaceSecrets(text+secret, secret); strings.Contains(strings.ReplaceAll(got, Redacted, gap), secret) && !strings.Contains(Redacted, secret) {
			t.Errorf("%q is left in %q", secret, got)
		}
	})
}

func TestPiecesOfASecretAreRecognized(t *testing.T) {
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
		if got := ReplaceFragments(text, secret); got != want {
			t.Errorf("%q: %q; want %q", text, got, want)
		}
	}
	if got := ReplaceFragments("something", ""); got != "something" {
		t.Errorf("without a secret: %q", got)
	}
}
