package doctor

import "github.com/kooworker/kooworker/internal/humanize"

// The verbs that go with a number of tasks or workers.

func are(n int64) string   { return humanize.Plural(n, "is", "are") }
func makes(n int64) string { return humanize.Plural(n, "makes", "make") }
func wait(n int64) string  { return humanize.Plural(n, "waits", "wait") }
