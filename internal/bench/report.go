package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// report is what was measured, as it is written as JSON.
type report struct {
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Machine  machine   `json:"machine"`
	Settings settings  `json:"settings"`
	Calls    callCount `json:"calls"`
	Figures  []figure  `json:"figures"`
}

type machine struct {
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Go    string `json:"go"`
	Redis string `json:"redis"`
}

type settings struct {
	Kooworker   string `json:"kooworker"` // its version
	Rounds      int    `json:"rounds"`
	Concurrency int    `json:"concurrency"`
}

// callCount says how many tasks were called, and how many calls were made beyond the
// first of each.
type callCount struct {
	Tasks    int64 `json:"tasks"`
	Repeated int64 `json:"repeated"`
}

// figure is one measured thing.
type figure struct {
	Section string    `json:"section"`
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Rounds  []float64 `json:"rounds"`
	Median  float64   `json:"median"`
	Target  *target   `json:"target,omitempty"`
}

// target is what the median should be. One of the limits is set.
type target struct {
	AtLeast float64 `json:"at_least,omitempty"`
	Below   float64 `json:"below,omitempty"`
	Met     bool    `json:"met"`
}

func atLeast(limit float64) *target { return &target{AtLeast: limit} }

func below(limit float64) *target { return &target{Below: limit} }

func newReport(ctx context.Context, o options) (*report, error) {
	text, err := exec.CommandContext(ctx, o.kooworker, "version", "--json").Output() //nolint:gosec // G204: the program to measure
	var build struct{ Version, Go string }
	if err = errors.Join(err, json.Unmarshal(text, &build)); err != nil {
		return nil, fmt.Errorf("cannot run the binary to measure; `make build` builds it: %w", err)
	}
	return &report{
		Began:    time.Now().UTC(),
		Machine:  machine{CPU: cpuName(), Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: build.Go},
		Settings: settings{Kooworker: build.Version, Rounds: o.rounds, Concurrency: o.concurrency},
	}, nil
}

func (r *report) add(f figure) {
	f.Median = median(f.Rounds)
	if t := f.Target; t != nil {
		t.Met = t.AtLeast > 0 && f.Median >= t.AtLeast || t.Below > 0 && f.Median < t.Below
	}
	r.Figures = append(r.Figures, f)
}

func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644) //nolint:gosec // G306: others may read it
}

// print writes the report as Markdown.
func (r *report) print(w io.Writer) {
	m, s := r.Machine, r.Settings
	fmt.Fprintf(w, "kooworker %s on %d cores (%s), %s, %s, Redis %s; concurrency %d; rounds: %d, %s\n",
		s.Kooworker, m.Cores, m.CPU, m.OS, m.Go, m.Redis, s.Concurrency, s.Rounds, time.Duration(r.Seconds*float64(time.Second)).Round(time.Second))
	fmt.Fprintf(w, "%s tasks were called, and %s of them again\n", number(float64(r.Calls.Tasks)), number(float64(r.Calls.Repeated)))
	var sections []string
	tables := map[string][][]string{}
	for _, f := range r.Figures {
		if tables[f.Section] == nil {
			sections = append(sections, f.Section)
			tables[f.Section] = [][]string{{f.Section, "median", "rounds", "unit", "target"}}
		}
		tables[f.Section] = append(tables[f.Section], f.row())
	}
	for _, section := range sections {
		printTable(w, tables[section])
	}
}

func (f figure) row() []string {
	values, targetText := "", ""
	if len(f.Rounds) > 1 {
		values = number(slices.Min(f.Rounds)) + " to " + number(slices.Max(f.Rounds))
	}
	if t := f.Target; t != nil {
		targetText = "at least " + number(t.AtLeast)
		if t.Below > 0 {
			targetText = "below " + number(t.Below)
		}
		if t.Met {
			targetText += ": met"
		} else {
			targetText += ": not met"
		}
	}
	return []string{f.Name, number(f.Median), values, f.Unit, targetText}
}

// printTable writes a table of Markdown with aligned columns. The first row is its head.
func printTable(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintln(w)
	for i, row := range rows {
		for c, cell := range row {
			fmt.Fprintf(w, "| %-*s ", widths[c], cell)
		}
		fmt.Fprintln(w, "|")
		if i > 0 {
			continue
		}
		for _, width := range widths {
			fmt.Fprint(w, "|", strings.Repeat("-", width+2))
		}
		fmt.Fprintln(w, "|")
	}
}

// number formats a value with about three digits, and large ones as 12,345.
func number(v float64) string {
	switch {
	case v >= 1000:
		text := strconv.FormatFloat(v, 'f', 0, 64)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	default:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 2, 64), ".00")
	}
}

// median returns the middle of the values, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// ratios divides the values of each round.
func ratios(values, by []float64) []float64 {
	out := make([]float64, len(values))
	for i := range values {
		out[i] = values[i] / by[i]
	}
	return out
}
