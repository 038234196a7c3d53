package koodrive

import (
	"testing"

	"github.com/kooworker/kooworker/worker/koodrive/answers"
)

// BenchmarkClassify is what it costs to find out what the body of an answer means.
func BenchmarkClassify(b *testing.B) {
	rules := withAdditions(nil)
	for _, name := range []string{"ok", "gone-404", "gateway-throttled", "html-503"} {
		b.Run(name, func(b *testing.B) {
			answer, ok := answers.ByName(name)
			if !ok {
				b.Fatalf("the catalogue has no answer %q", name)
			}
			body := []byte(answer.Body)
			b.ReportAllocs()
			for b.Loop() {
				if got := classify(rules, answer.Status, readEnvelope(body)); got != answer.Reason {
					b.Fatalf("got %s, want %s", got, answer.Reason)
				}
			}
		})
	}
}
