package chart_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/worker/dashboard/chart"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

//nolint:gochecknoglobals // a flag of the tests
var update = flag.Bool("update", false, "write testdata anew")

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// every returns n times, one every ten seconds.
func every(n int) (times []time.Time) {
	for i := range n {
		times = append(times, noon.Add(time.Duration(i)*10*time.Second))
	}
	return times
}

// backlog is an hour with a gap of nine minutes.
func backlog() chart.Timeline {
	times := every(361)
	times = append(times[:150:150], times[204:]...)
	t := chart.Timeline{Title: "Backlog", Unit: "tasks", Times: times, Gap: 30 * time.Second, Stacked: true, Series: []chart.Series{{Name: "unbind"}, {Name: "release"}, {Name: "offboard"}}}
	for _, at := range times {
		x := at.Sub(noon).Hours()
		t.Series[0].Values = append(t.Series[0].Values, math.Round(32_000*(1-x)))
		t.Series[1].Values = append(t.Series[1].Values, math.Round(4_000*(1+math.Sin(12*x))))
		t.Series[2].Values = append(t.Series[2].Values, 0)
	}
	return t
}

// rate is a rate that meets its limit.
func rate() chart.Timeline {
	t := chart.Timeline{
		Title: "Calls a second", Unit: "/s", Times: every(31), From: noon.Add(-time.Hour), To: noon.Add(5 * time.Minute), Gap: time.Minute,
		Series: []chart.Series{{Name: "calls"}, {Name: "refused"}}, Limit: &chart.Series{Name: "KooDrive's limit"},
	}
	for i := range t.Times {
		t.Series[0].Values = append(t.Series[0].Values, 59.5+math.Sin(float64(i)))
		t.Series[1].Values = append(t.Series[1].Values, math.Max(0, 3*math.Cos(float64(i))))
		t.Limit.Values = append(t.Limit.Values, 60)
	}
	t.Series[1].Values[10] = math.NaN()
	return t
}

func reasons() chart.Bars {
	return chart.Bars{Title: "Dead letters by reason", Unit: "letters", Bars: []chart.Bar{
		{Name: "forbidden", Count: 1_234_567, Link: "dead?reason=forbidden&kind=device%3Aunbind"}, {Name: "rejected", Count: 12_300, Link: "dead?reason=rejected"}, {Name: "crashed", Count: 1, Link: "dead?reason=crashed"}, {Name: "expired", Count: 0},
	}}
}

const hostile = `<script>alert(1)</script>"'&]]><!--` + "\u202e\x00\x01\u2028\xff" + `</svg></title>`

// all are charts of everything that may come.
func all() map[string]template.HTML {
	charts := map[string]template.HTML{
		"backlog": backlog().HTML(),
		"rate":    rate().HTML(),
		"bars":    reasons().HTML(),
		"hostile": chart.Timeline{Title: hostile, Unit: hostile, Times: every(2), Series: []chart.Series{{Name: hostile, Values: []float64{1, 2}}}, Limit: &chart.Series{Name: hostile, Values: []float64{3, 3}}}.HTML(),
		"hostile-bars": chart.Bars{Title: hostile, Unit: hostile, Bars: []chart.Bar{
			{Name: hostile, Count: 1, Link: "javascript:alert(1)"}, {Name: strings.Repeat("x", 10_000), Count: 2, Link: `"><script>`}, {Name: "עברית", Count: 3},
		}}.HTML(),
		"empty":      chart.Timeline{Title: "Empty"}.HTML(),
		"no-values":  chart.Timeline{Title: "No values", Times: every(3), Series: []chart.Series{{Name: "a"}}, Limit: &chart.Series{Name: "limit"}, Stacked: true}.HTML(),
		"empty-bars": chart.Bars{Title: "Empty"}.HTML(),
		"one-point":  chart.Timeline{Title: "One point", Times: every(1), Stacked: true, Series: []chart.Series{{Name: "a", Values: []float64{5}}}}.HTML(),
		"zeros":      chart.Timeline{Title: "Zeros", Times: every(3), Series: []chart.Series{{Name: "a", Values: []float64{0, 0, 0}}}}.HTML(),
		"not-finite": chart.Timeline{Title: "Not finite", Times: every(5), Stacked: true, Series: []chart.Series{
			{Name: "a", Values: []float64{1, math.NaN(), 3, math.Inf(1), 5}}, {Name: "b", Values: []float64{1, 2, 3, 4, -5}},
		}}.HTML(),
		"huge": chart.Timeline{Title: "Huge", Times: every(2), Stacked: true, Series: []chart.Series{
			{Name: "a", Values: []float64{math.MaxFloat64, 1e18}}, {Name: "b", Values: []float64{math.MaxFloat64, 1}},
		}}.HTML(),
		"huge-bars": chart.Bars{Title: "Huge", Bars: []chart.Bar{{Name: "a", Count: math.MaxInt64}, {Name: "c", Count: math.MaxInt64}, {Name: "b", Count: math.MinInt64}}}.HTML(),
	}
	many := chart.Timeline{Title: "Many", Times: every(2)}
	for i := range 9 {
		many.Series = append(many.Series, chart.Series{Name: fmt.Sprint("s-", i), Values: []float64{float64(i), 10}})
	}
	charts["many"] = many.HTML()
	return charts
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, got := range all() {
		file := filepath.Join("testdata", name+".html")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got; -update writes it anew):\n%s", name, diff)
		}
	}
}

// elements are those that a chart may have.
var elements = map[string]bool{
	"figure": true, "figcaption": true, "svg": true, "title": true, "desc": true, "line": true, "path": true, "text": true, "rect": true, "g": true, "a": true, "ul": true, "li": true, "span": true, "b": true, "small": true,
}

// All charts are well-formed XML, and have no element, attribute or number that they should not
// have.
func TestMarkup(t *testing.T) {
	t.Parallel()
	numeric := map[string]bool{"d": true, "x": true, "y": true, "x1": true, "x2": true, "y1": true, "y2": true, "width": true, "height": true}
	wrong := regexp.MustCompile(`NaN|Inf|e\+|-\d`)
	for name, text := range all() {
		decoder := xml.NewDecoder(strings.NewReader(string(text)))
		decoder.Strict = true
		images := 0
		for {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("%s: %v; want well-formed XML", name, err)
				break
			}
			start, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			if !elements[start.Name.Local] {
				t.Errorf("%s: element %s; want those of a chart only", name, start.Name.Local)
			}
			for _, a := range start.Attr {
				key, value := a.Name.Local, a.Value
				switch {
				case key == "role" && (value == "img" || value == "group"):
					images++
				case key == "style", strings.HasPrefix(key, "on"), strings.HasPrefix(strings.ToLower(value), "javascript:"):
					t.Errorf("%s: %s=%q; want none", name, key, value)
				case numeric[key] && wrong.MatchString(value):
					t.Errorf("%s: %s=%.100q; want finite numbers that are not negative", name, key, value)
				}
			}
		}
		if images != 1 || strings.Count(string(text), "<desc id=") != 1 {
			t.Errorf("%s: %d images, and\n%.300s\nwant one with a description", name, images, text)
		}
		if !utf8.ValidString(string(text)) || strings.ContainsAny(string(text), "\u202e\u2028\x00\x01") || strings.Contains(string(text), "<script") || len(text) > 50_000 {
			t.Errorf("%s: %.500s; want text that is harmless", name, text)
		}
	}
}

// description returns what a screen reader says.
func description(text template.HTML) string {
	return regexp.MustCompile(`(?s)<desc[^>]*>(.*)</desc>`).FindStringSubmatch(string(text))[1]
}

func TestDescription(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		chart template.HTML
		want  string
	}{
		{backlog().HTML(), "From 12:00 to 13:00 UTC. All together: 1,854 tasks now, 36,739 tasks at most. unbind: 0 tasks now, 32,000 tasks at most. release: 1,854 tasks now, 8,000 tasks at most. offboard: 0 tasks now, 0 tasks at most. It has 1 gap, where nothing was measured."},
		{rate().HTML(), "From 11:00 to 12:05 UTC. calls: 58.5/s now, 60.5/s at most. refused: 0.5/s now, 3/s at most. KooDrive&#39;s limit: 60/s now."},
		{reasons().HTML(), "1,246,868 letters in total: forbidden 1,234,567, rejected 12,300, crashed 1, expired 0."},
		{chart.Bars{Title: "One", Unit: "letters", Bars: []chart.Bar{{Name: "a", Count: 1}}}.HTML(), "1 letter in total: a 1."},
		{chart.Timeline{}.HTML(), "Nothing was measured."},
		{chart.Bars{}.HTML(), "Nothing to show."},
	} {
		if diff := cmp.Diff(tc.want, description(tc.chart)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// Where nothing was measured nothing is drawn, and a point without neighbours is a short line.
func TestTimeline_Gaps(t *testing.T) {
	t.Parallel()
	times := every(6)
	times[4], times[5] = times[4].Add(time.Hour), times[5].Add(2*time.Hour)
	text := string(chart.Timeline{
		Title: "Gaps", Times: times, From: noon, To: noon.Add(100 * time.Second), Gap: 15 * time.Second,
		Series: []chart.Series{{Name: "a", Values: []float64{1, 2, math.NaN(), 4, 5, 6}}},
	}.HTML())
	if want := ` d="M0 750L100 500M297 0h6"`; !strings.Contains(text, want) {
		t.Errorf("%s\nwant %s: a gap at the third, a short line at the fourth, and nothing beyond the axis", text, want)
	}
}

// A sum that lacks a part is not drawn, and a series without values draws no edge.
func TestTimeline_Stacked(t *testing.T) {
	t.Parallel()
	text := string(chart.Timeline{
		Title: "Sums", Times: every(4), Stacked: true,
		Series: []chart.Series{{Name: "a", Values: []float64{1, 1, 2, 2}}, {Name: "none", Values: []float64{0, 0, 0, 0}}, {Name: "b", Values: []float64{1, 3, math.NaN(), 3}}},
	}.HTML())
	for _, want := range []string{
		`class="area c1" d="M0 800L333 800L333 1000L0 1000Z"`, `class="line c1 d1" vector-effect="non-scaling-stroke" d="M0 800L333 800M994 600h6"`,
		`class="area c3" d="M0 600L333 200L333 800L0 800Z"`, `<span>none <b>0</b></span>`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nwant %s", text, want)
		}
	}
	if strings.Contains(text, `path class="line c2`) {
		t.Errorf("%s\nwant no edge of what is zero", text)
	}
}

// The axis has at most six times, whatever it spans.
func TestTimeline_Ticks(t *testing.T) {
	t.Parallel()
	for span, want := range map[time.Duration]string{
		0: "12:00", time.Second: "12:00", 5 * time.Minute: "12:00 12:02 12:04", time.Hour: "12:00 12:15 12:30 12:45 13:00",
		24 * time.Hour: "12:00 18:00 00:00 06:00 12:00", 8 * 24 * time.Hour: "2026-11-29 2026-12-01 2026-12-03 2026-12-05",
	} {
		text := string(chart.Timeline{Title: "Ticks", From: noon, To: noon.Add(span), Times: []time.Time{noon}, Series: []chart.Series{{Name: "a", Values: []float64{1}}}}.HTML())
		var got []string
		for _, m := range regexp.MustCompile(`text-anchor="(?:start|middle|end)">([^<]*)</text>`).FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", span, diff)
		}
	}
}

// contrast returns that of two colors, as WCAG 2 defines it.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	light := func(color string) float64 {
		var sum float64
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			n, err := strconv.ParseUint(color[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			c := float64(n) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum + 0.05
	}
	x, y := light(a), light(b)
	return max(x, y) / min(x, y)
}

func TestCSS_Contrast(t *testing.T) {
	t.Parallel()
	colors := regexp.MustCompile(`--(?:c\d|limit): (#[0-9a-f]{6})`).FindAllStringSubmatch(chart.CSS, -1)
	if len(colors) != 14 {
		t.Fatalf("%d colors; want seven of each scheme", len(colors))
	}
	for i, color := range colors {
		background := []string{"#ffffff", "#10151d"}[i/7]
		if got := contrast(t, color[1], background); got < 4.5 {
			t.Errorf("%s on %s has a contrast of %.1f; want 4.5 or more", color[1], background, got)
		}
	}
}

// A page of the charts, to be looked at: `go test -run TestPage -page FILE`.
var page = flag.String("page", "", "write a page with all charts")

func TestPage(t *testing.T) {
	t.Parallel()
	if strings.Contains(chart.CSS, "</") || strings.Count(chart.CSS, "{") != strings.Count(chart.CSS, "}") {
		t.Error("the stylesheet has a tag, or braces that do not match")
	}
	if *page == "" {
		return
	}
	text := `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Charts</title><style>:root{color-scheme:light dark}body{font:15px system-ui;margin:16px;background:#fff;--chart-background:#fff}@media(prefers-color-scheme:dark){body{background:#10151d;color:#e6e9ef;--chart-background:#10151d}}figure{margin-bottom:24px!important}` + chart.CSS + `</style>`
	for _, name := range []string{"backlog", "rate", "bars", "many", "one-point", "zeros", "not-finite", "huge", "hostile", "hostile-bars", "empty", "empty-bars", "huge-bars"} {
		text += string(all()[name])
	}
	if err := os.WriteFile(*page, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
