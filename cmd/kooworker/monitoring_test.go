package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/recovery"
	"github.com/kooworker/kooworker/worker/redischeck"
)

const (
	dashboardFile = "../../deploy/grafana/kooworker.json"
	runbookFile   = "../../docs/runbook.md"
	readmeFile    = "../../README.md"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each alert has a section of the runbook, and each section is about an alert.
func TestRunbook_HasASectionForEachAlert(t *testing.T) {
	t.Parallel()
	sections := map[string]string{}
	for _, part := range strings.Split(readFile(t, runbookFile), "\n## ")[1:] {
		title, text, _ := strings.Cut(part, "\n")
		if strings.HasPrefix(title, "Kooworker") {
			sections[title] = text
		}
	}
	if got, want := slices.Sorted(maps.Keys(sections)), alertNames(t); !slices.Equal(got, want) {
		t.Errorf("the runbook has sections for\n%v\nand the rules have the alerts\n%v\nwant the same", got, want)
	}
	rules := readFile(t, rulesFile)
	for title, text := range sections {
		for _, part := range []string{"**It means**", "**Look at**", "**Do**", "**Do not**"} {
			if !strings.Contains(text, part) {
				t.Errorf("the section %s has no part %s; want one", title, part)
			}
		}
		if url := "runbook_url: https://github.com/kooworker/kooworker/blob/main/docs/runbook.md#" + strings.ToLower(title) + "\n"; strings.Count(rules, url) != 1 {
			t.Errorf("the rules have %q %d times; want once", url, strings.Count(rules, url))
		}
	}
}

// The commands that the runbook and the rules name are commands of kooworker.
func TestRunbook_NamesCommandsThatExist(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, name := range []string{runbookFile, rulesFile} {
		text := strings.Join(strings.Fields(readFile(t, name)), " ") // a line may end within a command
		for _, m := range regexp.MustCompile("kooworker ((?:dead|queue|batch|locks) [a-z]+|status|doctor|worker|scheduler|enqueue|history|version)").FindAllStringSubmatch(text, -1) {
			seen[m[1]] = true
		}
	}
	for command := range seen {
		if r := kooworker(t, "", append(strings.Fields(command), "--help")...); r.code != exitDone {
			t.Errorf("kooworker %s --help: exit %d %s; want a command that exists", command, r.code, r.stderr)
		}
	}
	if len(seen) < 10 {
		t.Errorf("the runbook names the commands %v; want more of them", seen)
	}
}

var (
	metricName = regexp.MustCompile(`\b(?:kooworker|asynq|go|process)_[a-z0-9_]+\b`)
	matcher    = regexp.MustCompile(`\b([a-z]+)(?:=~|!~|!=|=)"([^"]*)"`)
)

// Each value of a label that the rules or the dashboard ask for is one that it can have.
func TestMonitoring_LabelValuesArePossible(t *testing.T) {
	t.Parallel()
	states := []string{"pending", "active", "scheduled", "retry", "archived", "completed", "held_back", "unreadable"}
	possible := map[string][]string{
		"reason": texts(tasks.Reasons()), "kind": texts(tasks.Kinds()), "queue": tasks.Queues(), "repair": texts(recovery.AllRepairs()),
		"problem": redischeck.Names(), "call": append(texts(gate.Kinds()), gate.SharedBucket), "cause": texts(gate.Causes()), "source": texts(tasks.Sources()),
		"outcome": texts([]tasks.Outcome{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Cancelled, tasks.Dead}),
		"state":   states, "by": {"told", "learnt", "none"}, "charged": {"true", "false"}, "alertstate": {"firing", "pending"}, "alertname": {"Kooworker.*"},
	}
	n := 0
	for _, expr := range append(readDashboard(t).exprs(), readFile(t, rulesFile)) {
		for _, m := range matcher.FindAllStringSubmatch(expr, -1) {
			for value := range strings.SplitSeq(m[2], "|") {
				if n++; !slices.Contains(possible[m[1]], value) && !strings.HasPrefix(value, "$") && m[1] != "namespace" {
					t.Errorf("%s asks for %s=%q; want one of %v", m[0], m[1], value, possible[m[1]])
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("%d values were found; want more of them", n)
	}
}

func texts[T ~string](values []T) (out []string) {
	for _, v := range values {
		out = append(out, string(v))
	}
	return out
}

// checkMetricsNamed holds that each metric that the rules, the dashboard, the runbook or the
// README name exists, that the README names each of ours, and that each panel shows something.
func checkMetricsNamed(t *testing.T, prom *prometheusServer) {
	t.Helper()
	exists := map[string]bool{}
	for _, name := range prom.names() {
		exists[name] = true
	}
	board := readDashboard(t)
	table := metricsTable(t)
	for where, text := range map[string]string{"the rules": readFile(t, rulesFile), "the dashboard": strings.Join(board.exprs(), "\n"), "the runbook": readFile(t, runbookFile)} {
		for _, name := range metricName.FindAllString(text, -1) {
			if !exists[name] {
				t.Errorf("%s has %s, which no process serves; want a metric that exists", where, name)
			}
		}
	}
	ours := map[string]bool{}
	for name := range exists {
		if strings.HasPrefix(name, "kooworker_") || strings.HasPrefix(name, "asynq_") {
			ours[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] = true
		}
	}
	if got, want := table, slices.Sorted(maps.Keys(ours)); !slices.Equal(got, want) {
		t.Errorf("the README's table of metrics has\n%v\nand the processes serve\n%v\nwant the same", got, want)
	}
	for _, p := range board.panels() {
		found := 0
		for _, target := range p.Targets {
			found += len(prom.query(target.query()))
		}
		if found == 0 && p.Type != "row" {
			t.Errorf("the panel %q shows nothing of fleets with every fault; want something", p.Title)
		}
	}
}

// metricsTable returns the names in the README's table of metrics.
func metricsTable(t *testing.T) (names []string) {
	t.Helper()
	_, section, _ := strings.Cut(readFile(t, readmeFile), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		if strings.HasPrefix(line, "| `") {
			names = append(names, metricName.FindAllString(cell, -1)...)
		}
	}
	slices.Sort(names)
	return names
}

// The structs have the fields of Grafana's dashboards that ours uses. Another field is a
// spelling mistake, or belongs here.
type grafanaBoard struct {
	UID, Title, Description, Timezone, Refresh string
	Tags                                       []string
	Editable                                   bool
	GraphTooltip, SchemaVersion, Version       int
	Time                                       struct{ From, To string }
	Timepicker                                 struct{}
	Annotations                                struct{ List []struct{} }
	Links                                      []struct {
		Title, Type, URL, Icon, Tooltip string
		TargetBlank                     bool
	}
	Templating struct{ List []dashboardVariable }
	Panels     []dashboardPanel
}

type dashboardVariable struct {
	Name, Label, Type, Regex, AllValue, Definition string
	Datasource                                     dashboardSource
	Query                                          json.RawMessage // an object, or for a data source its type
	IncludeAll, Multi                              bool
	Refresh, Sort, Hide                            int
	Current                                        json.RawMessage
	Options                                        []struct{}
}

type dashboardSource struct{ Type, UID string }

type dashboardPanel struct {
	ID                       int
	Type, Title, Description string
	Collapsed                bool
	GridPos                  struct{ X, Y, W, H int }
	Datasource               dashboardSource
	Targets                  []dashboardTarget
	FieldConfig              struct {
		Defaults struct {
			Unit, NoValue             string
			Min, Max                  *float64
			Color, Custom, Thresholds json.RawMessage
			Mappings                  []json.RawMessage
		}
		Overrides []struct{}
	}
	Options         json.RawMessage // each type of panel has its own
	Transformations []json.RawMessage
	Panels          []dashboardPanel
}

type dashboardTarget struct {
	RefID, Expr, LegendFormat, Format string
	Instant                           bool
	Range                             *bool
	Datasource                        dashboardSource
}

func readDashboard(t *testing.T) (d grafanaBoard) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader([]byte(readFile(t, dashboardFile))))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	return d
}

func (d grafanaBoard) panels() (all []dashboardPanel) {
	for _, p := range d.Panels {
		all = append(append(all, p), p.Panels...)
	}
	return all
}

func (d grafanaBoard) exprs() (all []string) {
	for _, p := range d.panels() {
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	return all
}

// query is the expression with all variables set to all.
func (target dashboardTarget) query() string {
	return strings.NewReplacer("$__rate_interval", "5m", "$cluster", ".*", "$namespace", ".*", "$queue", ".*").Replace(target.Expr)
}

// Every panel says what it shows, with a unit, from the data source that the reader chooses.
func TestDashboard_IsComplete(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	ids, variables := map[int]string{}, map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	const source = "${datasource}"
	rows := 0
	taken := map[[2]int]string{}
	for _, p := range d.panels() {
		if other, ok := ids[p.ID]; ok {
			t.Errorf("the panels %q and %q have the id %d; want different ids", other, p.Title, p.ID)
		}
		ids[p.ID] = p.Title
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[at]; ok || at[0] >= 24 {
					t.Fatalf("the panel %q lies on %q or ends outside the 24 columns: %+v", p.Title, other, p.GridPos)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			rows++
			continue
		}
		if p.Title == "" || len(p.Description) < 20 || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 || p.Datasource.UID != source {
			t.Errorf("the panel %q has the description %q, the unit %q, %d targets and the source %v; want all of them, and %s", p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets), p.Datasource, source)
		}
		for _, target := range p.Targets {
			if target.Expr == "" || target.Datasource.UID != source || p.Type == "timeseries" && target.LegendFormat == "" {
				t.Errorf("the panel %q has the target %+v; want an expression, a legend and %s", p.Title, target, source)
			}
			for _, m := range regexp.MustCompile(`\$([a-z]+)`).FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("the panel %q uses %s; want one of the variables %v", p.Title, strconv.Quote(m[0]), variables)
				}
			}
			for selector := range strings.SplitSeq(target.Expr, "{") {
				if i := strings.Index(selector, "}"); i >= 0 && !strings.Contains(selector[:i], `cluster=~"$cluster", namespace=~"$namespace"`) {
					t.Errorf("the panel %q has the selector {%s}; want the variables cluster and namespace in it", p.Title, selector[:i])
				}
			}
		}
	}
	if rows < 9 || d.UID == "" || d.SchemaVersion < 39 {
		t.Errorf("the dashboard has %d rows, the uid %q and the schema %d; want 9, one, and 39", rows, d.UID, d.SchemaVersion)
	}
}
