package chart

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/internal/humanize"
)

// Series are the values of one name over time.
type Series struct {
	Name string
	// Values are those at Times. What is not known is NaN. They are not negative.
	Values []float64
}

// at returns a value, NaN if there is none that can be drawn.
func (s Series) at(i int) float64 {
	if i < 0 || i >= len(s.Values) || !isFinite(s.Values[i]) {
		return math.NaN()
	}
	return max(s.Values[i], 0)
}

// Timeline is a chart of several series over time.
type Timeline struct {
	// Title is the heading. Titles must differ within a page.
	Title string
	// Unit is that of the values, such as tasks, or /s.
	Unit string
	// Times are when the values were taken, the oldest first. Between two that are further
	// apart than Gap nothing is drawn; 0: there are no gaps.
	Times []time.Time
	Gap   time.Duration
	// From and To are the ends of the axis. Zero: the first and the last time.
	From, To time.Time
	// Series are drawn and listed in this order, stacked from below if Stacked. From the
	// sixth on they are summed up as others, if there are more than six.
	Series  []Series
	Stacked bool
	// Limit is a line that the values should not cross; nil: there is none.
	Limit *Series
}

const (
	maxSeries  = 6
	plotTop    = 8
	plotHeight = 150
	side       = 1000 // of the square in which curves are drawn
)

type gridLine struct {
	Y, TextY int
	Text     string
}

type tick struct{ X, Anchor, Text string }

type curve struct {
	Area, Line string
	Style      int
}

type legendEntry struct{ Name, Number, Class string }

type timelineView struct {
	ID, Title, Desc, Unknown                string
	Height, Top, PlotHeight, TickY, MiddleY int
	Grid                                    []gridLine
	Ticks                                   []tick
	Curves                                  []curve
	Limit                                   string
	Legend                                  []legendEntry
}

// HTML returns the chart.
func (t Timeline) HTML() template.HTML {
	t = t.visible()
	tops := t.tops()
	v := timelineView{
		ID: slug(t.Title), Title: clean(t.Title, maxTitle), Desc: t.describe(tops), Ticks: t.ticks(),
		Top: plotTop, PlotHeight: plotHeight, TickY: plotTop + plotHeight + 16, MiddleY: plotTop + plotHeight/2, Height: plotTop + plotHeight + 22,
	}
	most := t.most(tops)
	for _, share := range []float64{0, 0.5, 1} {
		y := plotTop + int(math.Round(plotHeight*(1-share)))
		v.Grid = append(v.Grid, gridLine{Y: y, TextY: y - 3, Text: short(most * share)})
	}
	v.Grid[2].TextY = plotTop + 11           // below the line: there is no room above
	bottoms := make([]float64, len(t.Times)) // they have the gaps of the tops
	for i := range bottoms {
		if t.Stacked && len(tops) > 0 {
			bottoms[i] = 0 * tops[0][i]
		}
	}
	known := false
	for i, s := range t.Series {
		c := curve{Style: i + 1}
		if points := t.points(tops[i], most); len(points) > 0 {
			known = true
			c.Line = linePath(points)
			if t.Stacked {
				c.Area = areaPath(points, t.points(bottoms, most))
			}
			if t.Stacked && isZero(s) {
				c.Line, c.Area = "", "" // it would hide the edge of the one below
			}
		}
		if t.Stacked {
			bottoms = tops[i]
		}
		v.Curves = append(v.Curves, c)
		v.Legend = append(v.Legend, legendEntry{clean(s.Name, maxName), number(last(s), t.Unit), fmt.Sprintf("c%d d%d", i+1, i+1)})
	}
	if t.Limit != nil {
		v.Limit = linePath(t.points(t.Limit.Values, most))
		v.Legend = append(v.Legend, legendEntry{clean(t.Limit.Name, maxName), number(last(*t.Limit), t.Unit), "limit"})
	}
	if !known {
		v.Unknown = "Nothing was measured."
	}
	return render("timeline", v)
}

// visible returns what is drawn: the values between From and To, which are set, of not too many
// series.
func (t Timeline) visible() Timeline {
	n := len(t.Times)
	if n > 0 && t.From.IsZero() {
		t.From = t.Times[0]
	}
	if n > 0 && t.To.IsZero() {
		t.To = t.Times[n-1]
	}
	first, end := 0, n
	for first < n && t.Times[first].Before(t.From) {
		first++
	}
	for end > first && t.Times[end-1].After(t.To) {
		end--
	}
	all := fold(t.Series, n)
	t.Times, t.Series = t.Times[first:end], make([]Series, len(all))
	for i, s := range all {
		t.Series[i] = Series{Name: s.Name, Values: valuesOf(s, n)[first:end]}
	}
	if t.Limit != nil {
		t.Limit = &Series{Name: t.Limit.Name, Values: valuesOf(*t.Limit, n)[first:end]}
	}
	return t
}

// fold sums up what is too much for one chart.
func fold(all []Series, n int) []Series {
	if len(all) <= maxSeries {
		return all
	}
	others := Series{Name: fmt.Sprintf("%d others", len(all)-maxSeries+1), Values: make([]float64, n)}
	for i := range n {
		for _, s := range all[maxSeries-1:] {
			others.Values[i] += s.at(i)
		}
	}
	return append(append([]Series{}, all[:maxSeries-1]...), others)
}

// valuesOf returns n values that can be drawn, or are NaN.
func valuesOf(s Series, n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = s.at(i)
	}
	return values
}

// tops returns where each series is drawn: if they are stacked, above those before. Where one of
// these is not known, no sum is.
func (t Timeline) tops() (tops [][]float64) {
	sums := make([]float64, len(t.Times))
	for _, s := range t.Series {
		values := slices.Clone(s.Values)
		if t.Stacked {
			for i := range sums {
				sums[i] += values[i]
				if math.IsInf(sums[i], 0) {
					sums[i] = math.MaxFloat64
				}
				values[i] = sums[i]
			}
		}
		tops = append(tops, values)
	}
	if t.Stacked { // what lacks a part of its sum is drawn nowhere
		for i, sum := range sums {
			for k := range tops {
				if math.IsNaN(sum) {
					tops[k][i] = math.NaN()
				}
			}
		}
	}
	return tops
}

// most returns the upper end of the axis.
func (t Timeline) most(tops [][]float64) float64 {
	most := 0.0
	for _, values := range tops {
		most = max(most, maxOf(values))
	}
	if t.Limit != nil {
		most = max(most, maxOf(t.Limit.Values))
	}
	return ceiling(most)
}

// maxOf returns the largest value that is known, 0 if there is none.
func maxOf(values []float64) (most float64) {
	for _, v := range values {
		if !math.IsNaN(v) {
			most = max(most, v)
		}
	}
	return most
}

func isZero(s Series) bool { return maxOf(s.Values) == 0 }

// last returns the latest value, NaN if there is none.
func last(s Series) float64 { return s.at(len(s.Values) - 1) }

type point struct{ x, y int }

// points returns the runs of points without a gap between them.
func (t Timeline) points(values []float64, most float64) (runs [][]point) {
	span := t.To.Sub(t.From).Seconds()
	var run []point
	var before time.Time
	for i, at := range t.Times {
		missing := math.IsNaN(values[i])
		if missing || t.Gap > 0 && len(run) > 0 && at.Sub(before) > t.Gap {
			if len(run) > 0 {
				runs = append(runs, run)
			}
			run = nil
		}
		if missing {
			continue
		}
		x := side
		if span > 0 {
			x = int(math.Round(side * at.Sub(t.From).Seconds() / span))
		}
		run = append(run, point{x, side - int(math.Round(side*(values[i]/most)))})
		before = at
	}
	if len(run) > 0 {
		runs = append(runs, run)
	}
	return runs
}

// linePath draws lines through the points. A single point becomes a short line.
func linePath(runs [][]point) string {
	const half = 3 // of its length
	var d strings.Builder
	for _, run := range runs {
		if len(run) == 1 {
			fmt.Fprintf(&d, "M%d %dh%d", min(max(run[0].x-half, 0), side-2*half), run[0].y, 2*half)
			continue
		}
		for i, p := range run {
			fmt.Fprintf(&d, "%c%d %d", "ML"[min(i, 1)], p.x, p.y)
		}
	}
	return d.String()
}

// areaPath draws the areas between points and those below them.
func areaPath(tops, bottoms [][]point) string {
	var d strings.Builder
	for i, run := range tops {
		if len(run) == 1 {
			continue
		}
		d.WriteString(linePath([][]point{run}))
		for _, p := range slices.Backward(bottoms[i]) {
			fmt.Fprintf(&d, "L%d %d", p.x, p.y)
		}
		d.WriteString("Z")
	}
	return d.String()
}

// ticks returns the times below the axis: at most five, at round times.
func (t Timeline) ticks() (ticks []tick) {
	span := t.To.Sub(t.From)
	if span <= 0 {
		if !t.To.IsZero() {
			ticks = append(ticks, tick{"100%", "end", t.To.UTC().Format("15:04")})
		}
		return ticks
	}
	const most = 5
	step, layout := time.Minute, "15:04"
	for _, step = range []time.Duration{
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
	} {
		if span/step < most {
			break
		}
	}
	if span/step >= most { // days and more
		step, layout = max(span/4, 24*time.Hour), time.DateOnly
	}
	for at := t.From.UTC().Truncate(step); !at.After(t.To); at = at.Add(step) {
		share := 100 * at.Sub(t.From).Seconds() / span.Seconds()
		if share < 0 {
			continue
		}
		anchor, text := "middle", at.Format(layout)
		switch {
		case share < 8:
			anchor = "start"
		case share > 92:
			anchor = "end"
		}
		ticks = append(ticks, tick{fmt.Sprintf("%.4g%%", share), anchor, text})
	}
	return ticks
}

// describe says in words what is drawn.
func (t Timeline) describe(tops [][]float64) string {
	if len(t.Times) == 0 || len(t.Series) == 0 {
		return "Nothing was measured."
	}
	var d strings.Builder
	fmt.Fprintf(&d, "From %s to %s UTC. ", t.From.UTC().Format("15:04"), t.To.UTC().Format("15:04"))
	if t.Stacked && len(t.Series) > 1 {
		sum := tops[len(tops)-1]
		fmt.Fprintf(&d, "All together: %s now, %s at most. ", number(sum[len(sum)-1], t.Unit), number(maxOf(sum), t.Unit))
	}
	for _, s := range t.Series {
		fmt.Fprintf(&d, "%s: %s now, %s at most. ", clean(s.Name, maxName), number(last(s), t.Unit), number(maxOf(s.Values), t.Unit))
	}
	if t.Limit != nil {
		fmt.Fprintf(&d, "%s: %s now. ", clean(t.Limit.Name, maxName), number(last(*t.Limit), t.Unit))
	}
	if n := t.gaps(); n > 0 {
		fmt.Fprintf(&d, "It has %s, where nothing was measured. ", humanize.Count(n, "gaps"))
	}
	return strings.TrimSpace(d.String())
}

// gaps counts the times between two samples that are too long.
func (t Timeline) gaps() (n int) {
	for i := 1; i < len(t.Times) && t.Gap > 0; i++ {
		if t.Times[i].Sub(t.Times[i-1]) > t.Gap {
			n++
		}
	}
	return n
}
