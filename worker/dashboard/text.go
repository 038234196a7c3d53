package dashboard

import (
	"fmt"
	"html/template"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/internal/humanize"
)

// functions are those of the templates.
var functions = template.FuncMap{
	"visible": visible, "printable": printable,
	"number":       number[int64],
	"count":        number[int],
	"share":        share,
	"time":         clock,
	"seconds":      func(s int64) string { return humanize.Seconds(float64(s)) },
	"perSec":       humanize.PerSecond,
	"bytes":        humanize.Bytes,
	"ended":        ended,
	"deviceOrLock": deviceOrLock,
	"tableOf":      func(v view, caption string, rows any) table { return table{v, caption, rows} },
}

// table is what the template of a table gets.
type table struct {
	View    view
	Caption string
	Rows    any
}

// maxShown is how many characters of a text a page shows.
const maxShown = 200

// visible makes a text from strangers harmless to look at, on one line, and cuts it.
// html/template escapes it afterwards.
func visible(text any) string { return printable(humanize.Cut(fmt.Sprint(text), maxShown)) }

// printable writes by its code what cannot be seen.
func printable(text string) string { return humanize.Visible(text, "") }

// number writes a number with separators of thousands.
func number[N int | int64](n N) string {
	digits := strconv.FormatInt(int64(n), 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// share writes a part of a whole in percent; empty if there is no whole.
func share(n, of int64) string {
	switch percent := 100 * float64(n) / float64(of); {
	case of == 0:
		return ""
	case n > 0 && percent < 0.1:
		return "<0.1 %"
	case n < of && percent > 99.9:
		return ">99.9 %"
	default:
		return strconv.FormatFloat(percent, 'f', 1, 64) + " %"
	}
}

// clock is the element for a time; empty for none.
func clock(t time.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s</time>`, t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05"))) //nolint:gosec // digits only
}
