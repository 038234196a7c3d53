package dashboard

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/dashboard/chart"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// deadPage shows the dead letters that match a filter.
type deadPage struct {
	Filter  letterFilter
	Counts  deadletter.Counts
	Letters []deadletter.Letter
	// Next is the query of the next page, empty on the last.
	Next string
	// Found is false if the time was over before a page was full: Looked of Entries were looked at.
	Found           bool
	Looked, Entries int64
	AllReasons      []tasks.Reason
	Chart           template.HTML
	AllKinds        []tasks.Kind
	Ages            []choice
}

// choice is an option of a form.
type choice struct{ Value, Name string }

// ages are the times by which letters can be found.
var ages = []choice{{"", "any time"}, {"1h", "1 hour"}, {"24h", "1 day"}, {"168h", "1 week"}, {"720h", "30 days"}}

const (
	shownLetters = 50
	pageBudget   = 200 * time.Millisecond
)

// letterFilter is a filter as it stands in a URL and in a form.
type letterFilter struct {
	Reason, Kind, UserID, Batch, ID string
	OlderThan, NewerThan            string // relative, for people
	DeadBefore, DeadAfter           string // absolute, for orders
}

// letterFilterOf reads a filter from the values of a request.
func letterFilterOf(get func(string) string) letterFilter {
	text := func(name string) string { return strings.TrimSpace(get(name)) }
	return letterFilter{
		Reason: text("reason"), Kind: text("kind"), UserID: text("user_id"), Batch: text("batch"), ID: get("id"),
		OlderThan: text("older_than"), NewerThan: text("newer_than"), DeadBefore: text("dead_before"), DeadAfter: text("dead_after"),
	}
}

// fields are the names and values that are set.
func (f letterFilter) fields() (out []field) {
	for _, v := range []field{
		{"reason", f.Reason}, {"kind", f.Kind}, {"user_id", f.UserID}, {"batch", f.Batch}, {"id", f.ID},
		{"older_than", f.OlderThan}, {"newer_than", f.NewerThan}, {"dead_before", f.DeadBefore}, {"dead_after", f.DeadAfter},
	} {
		if v.Value != "" {
			out = append(out, v)
		}
	}
	return out
}

// field is a value of a form.
type field struct{ Name, Value string }

// Query writes the filter as a query.
func (f letterFilter) Query() string {
	values := url.Values{}
	for _, v := range f.fields() {
		values.Set(v.Name, v.Value)
	}
	return values.Encode()
}

// String says in words what the filter selects.
func (f letterFilter) String() string {
	words := map[string]string{
		"reason": "reason", "kind": "kind", "user_id": "user", "batch": "batch", "id": "ID",
		"older_than": "dead for longer than", "newer_than": "dead for less than", "dead_before": "dead before", "dead_after": "dead after",
	}
	var parts []string
	for _, v := range f.fields() {
		parts = append(parts, words[v.Name]+" "+v.Value)
	}
	if len(parts) == 0 {
		return "all dead letters"
	}
	return strings.Join(parts, ", ")
}

// fixed returns the filter with absolute times, so that it selects the same a minute later.
func (f letterFilter) fixed(now time.Time) (letterFilter, error) {
	for _, age := range []struct {
		name           string
		relative, into *string
	}{{"older_than", &f.OlderThan, &f.DeadBefore}, {"newer_than", &f.NewerThan, &f.DeadAfter}} {
		if *age.relative == "" {
			continue
		}
		d, err := time.ParseDuration(*age.relative)
		if err != nil || d <= 0 {
			return f, badRequest("%s: %q; want a time such as 24h", age.name, printable(*age.relative))
		}
		*age.into, *age.relative = now.Add(-d).UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano), ""
	}
	return f, nil
}

// filter returns the filter of the store, with what is selected at a time.
func (f letterFilter) filter(now time.Time) (out deadletter.Filter, err error) {
	if f, err = f.fixed(now); err != nil {
		return out, err
	}
	if reason := tasks.Reason(f.Reason); f.Reason != "" {
		if !reason.Known() {
			return out, badRequest("reason: %q is not a reason; want one of %v", printable(f.Reason), tasks.Reasons())
		}
		out.Reasons = []tasks.Reason{reason}
	}
	if kind := tasks.Kind(f.Kind); f.Kind != "" {
		if !slices.Contains(letterKinds(), kind) {
			return out, badRequest("kind: %q is not a kind; want one of %v", printable(f.Kind), letterKinds())
		}
		out.Kinds = []tasks.Kind{kind}
	}
	out.UserID, out.Batch = f.UserID, f.Batch
	if f.ID != "" {
		out.IDs = []string{f.ID}
	}
	for _, at := range []struct {
		name, text string
		into       *time.Time
	}{{"dead_before", f.DeadBefore, &out.DeadBefore}, {"dead_after", f.DeadAfter, &out.DeadAfter}} {
		if at.text == "" {
			continue
		}
		if *at.into, err = time.Parse(time.RFC3339Nano, at.text); err != nil {
			return out, badRequest("%s: %q; want a time such as 2026-12-01T00:00:00Z", at.name, printable(at.text))
		}
	}
	return out, nil
}

// letterKinds are the kinds that a filter may name.
func letterKinds() []tasks.Kind { return append(tasks.Kinds(), deadletter.KindUnknown) }

func (d *Dashboard) dead(r *http.Request, _ access.User) (reply, error) {
	query := r.URL.Query()
	p := deadPage{Filter: letterFilterOf(query.Get), AllReasons: tasks.Reasons(), AllKinds: letterKinds(), Ages: ages}
	fixed, err := p.Filter.fixed(time.Now())
	if err != nil {
		return reply{}, err
	}
	filter, err := fixed.filter(time.Time{})
	if err != nil {
		return reply{}, err
	}
	at, err := deadletter.ParsePosition(query.Get("after"))
	if err != nil {
		return reply{}, badRequest("after: %v", err)
	}
	page, err := d.letters.Page(r.Context(), filter, at, shownLetters, pageBudget)
	if err != nil {
		return reply{}, err
	}
	p.Letters, p.Looked, p.Entries = page.Letters, page.Looked, page.Entries
	if next := page.Next.String(); next != "" {
		p.Next = fixed.Query() + "&after=" + url.QueryEscape(next)
	}
	p.Found = p.Next == "" || len(p.Letters) == shownLetters
	if p.Counts, err = d.letters.Counts(r.Context()); err != nil {
		return reply{}, err
	}
	bars := chart.Bars{Title: "Dead letters by reason", Unit: "letters"}
	for _, row := range d.deadRows(p.Counts.ByReason) {
		bars.Bars = append(bars.Bars, chart.Bar{Name: string(row.Reason), Count: row.Count, Link: row.Href})
	}
	p.Chart = bars.HTML()
	return reply{page: "dead.html", title: "Dead letters", data: p}, nil
}

// deadRows are the reasons of dead letters, each with a link to them.
func (d *Dashboard) deadRows(counts map[tasks.Reason]int64) []reasonRow {
	rows := reasonRows(counts)
	for i, row := range rows {
		rows[i].Href = d.prefix + "/dead?" + letterFilter{Reason: string(row.Reason)}.Query()
	}
	return rows
}

// deviceOrLock says what a letter is about.
func deviceOrLock(l deadletter.Letter) string {
	switch l.Kind {
	case tasks.KindDeviceUnbind:
		return "device " + l.Target
	case tasks.KindLockRelease:
		return "lock " + l.Target
	default:
		return l.Target
	}
}
