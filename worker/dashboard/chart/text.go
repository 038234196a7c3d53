package chart

import (
	"math"
	"strconv"
	"strings"
	"unicode"
)

const (
	maxName  = 60  // runes of a name that are shown
	maxTitle = 500 // runes of a name that a description has
)

// clean makes a text fit to be shown and to be XML: what cannot be printed becomes a question
// mark, marks that turn the direction of the text included, and the end is cut off.
func clean(text string, most int) string {
	var out strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > most {
			return out.String() + "…"
		}
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			r = '?'
		}
		out.WriteRune(r)
	}
	return out.String()
}

// number writes a value with its unit, such as 12,300 tasks or 59.5/s. A unit that is a noun is
// given in the plural.
func number(v float64, unit string) string {
	unit = clean(unit, maxName)
	switch {
	case !isFinite(v):
		return "unknown"
	case unit == "" || strings.HasPrefix(unit, "/"):
		return thousands(v) + unit
	case v == 1:
		return "1 " + strings.TrimSuffix(unit, "s")
	default:
		return thousands(v) + " " + unit
	}
}

// thousands writes a value with commas, and with one digit behind the point if it is small.
func thousands(v float64) string {
	if math.Abs(v) >= 1e15 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	digits := 0
	if math.Abs(v) < 100 && v != math.Trunc(v) {
		digits = 1
	}
	text := strconv.FormatFloat(math.Abs(v), 'f', digits, 64)
	whole, rest, hasRest := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if hasRest && rest != "0" {
		whole += "." + rest
	}
	if v < 0 && whole != "0" {
		whole = "-" + whole
	}
	return whole
}

// short writes a value of an axis, such as 12.5k.
func short(v float64) string {
	if v >= 1e15 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	for _, unit := range []struct {
		size float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= unit.size {
			return strconv.FormatFloat(v/unit.size, 'f', -1, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}

// ceiling returns the end of an axis: a round number that is not below v, whose half is a short
// number, too. It is 1 for 0, and finite for all that is finite.
func ceiling(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, factor := range []float64{1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
		if c := factor * power; c >= v && isFinite(c) {
			return c
		}
	}
	return v
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// slug makes an ID of a title.
func slug(title string) string {
	id := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, title)
	return "chart-" + id
}
