package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/worker/forecast/draintime"
)

// The table of docs/scale.md is what the model says.
func TestScaleDoc(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	number := func(text string) float64 {
		t.Helper()
		if text == "–" { // not known
			return 0
		}
		n, err := strconv.ParseFloat(strings.ReplaceAll(text, ",", ""), 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const header = "| tasks | quota, calls/s | slots | latency | failure share | calls for an attempt | tasks/s | time |\n|---|---|---|---|---|---|---|---|\n"
	_, table, _ := strings.Cut(string(text), header)
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")
	if len(rows) < 5 {
		t.Fatalf("docs/scale.md has %d rows of the model; want 5 at least", len(rows))
	}
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		latency, err := time.ParseDuration(strings.ReplaceAll(cells[3], " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", row, err)
		}
		m := draintime.Model{
			Quota: number(cells[1]), Slots: int(number(cells[2])), Latency: latency,
			FailureShare: number(strings.TrimSuffix(cells[4], " %")) / 100, CallsPerAttempt: number(cells[5]),
		}
		rate, left := fmt.Sprintf("%.0f", m.Rate()), humanize.Seconds(m.Seconds(int64(number(cells[0]))))
		if want := fmt.Sprintf("%.0f", number(cells[6])); rate != want || left != cells[7] {
			t.Errorf("%s: the model says %s tasks a second and %s", row, rate, left)
		}
	}
}
