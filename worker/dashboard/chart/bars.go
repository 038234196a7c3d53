package chart

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// Bar is one bar of Bars.
type Bar struct {
	Name  string
	Count int64  // a negative one is drawn as 0
	Link  string // where the bar leads; "": nowhere. Only links without a scheme, http and https work
}

// Bars is a bar chart of counts by name, in the order given.
type Bars struct {
	// Title is the heading. Titles must differ within a page.
	Title string
	// Unit is what is counted, in the plural, such as letters.
	Unit string
	Bars []Bar
}

const (
	rowHeight = 38
	textRoom  = 16 // above a bar
)

// barRow is a bar as it is drawn. Y is the base line of the text, and BarY the top of the bar.
type barRow struct {
	Name, Full, Link, Number, Width string
	Y, BarY                         int
}

type barsView struct {
	ID, Title, Desc, Role string
	Height                int
	Rows                  []barRow
}

// HTML returns the chart. With links it is a group of links for a screen reader, and without it
// is one image.
func (b Bars) HTML() template.HTML {
	v := barsView{ID: slug(b.Title), Title: clean(b.Title, maxTitle), Role: "img", Height: max(len(b.Bars)*rowHeight, rowHeight)}
	total, most := int64(0), int64(1)
	for _, bar := range b.Bars {
		total += min(max(bar.Count, 0), math.MaxInt64-total)
		most = max(most, bar.Count)
	}
	words := make([]string, 0, len(b.Bars))
	for i, bar := range b.Bars {
		n := max(bar.Count, 0)
		width := 100 * float64(n) / float64(most)
		if n > 0 {
			width = max(width, 0.5) // it is not nothing
		}
		if bar.Link != "" {
			v.Role = "group"
		}
		v.Rows = append(v.Rows, barRow{
			Name: clean(bar.Name, maxName/2), Full: clean(bar.Name, maxTitle), Link: bar.Link, Number: thousands(float64(n)),
			Width: fmt.Sprintf("%.4g%%", width), Y: i*rowHeight + textRoom - 4, BarY: i*rowHeight + textRoom,
		})
		words = append(words, fmt.Sprintf("%s %s", clean(bar.Name, maxName), thousands(float64(n))))
	}
	v.Desc = "Nothing to show."
	if len(words) > 0 {
		v.Desc = fmt.Sprintf("%s in total: %s.", number(float64(total), b.Unit), strings.Join(words, ", "))
	}
	return render("bars", v)
}
