package doctor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/fleet"
	"github.com/kooworker/kooworker/worker/overview"
)

func (d *Doctor) workerChecks() []check {
	return []check{{"workers.alive", redisLimit, d.alive}, {"workers.settings", redisLimit, d.settings}}
}

// alive says which workers live, and what keeps them from working.
func (d *Doctor) alive(ctx context.Context) (out []Finding, err error) {
	reports, live, err := fleet.ReadReports(ctx, d.cfg.Redis)
	if err != nil {
		return nil, err
	}
	if d.live = live; live == 0 {
		return []Finding{warning("start one: kooworker worker; if one should run, look at its log", "no worker is alive")}, nil
	}
	for _, r := range reports {
		if r.Problem != "" {
			out = append(out, wrong("look at its log, and repair what it names", "worker %s takes no tasks: %s", nameOf(r), r.Problem))
		}
	}
	out = append(out, stopped(reports)...)
	if len(out) > 0 {
		return out, nil
	}
	return ok("%s %s alive", humanize.Count(int64(live), "workers"), are(int64(live))), nil
}

// stopped tells which calls no worker makes, each reason once.
func stopped(reports []fleet.Report) (out []Finding) {
	all := overview.MergeStopped(reports)
	slices.SortFunc(all, func(a, b overview.Stopped) int {
		return cmp.Or(cmp.Compare(a.Call, b.Call), cmp.Compare(a.Reason, b.Reason))
	})
	for _, s := range all {
		n := int64(s.Workers)
		detail := fmt.Sprintf("%s %s no calls of kind %s, but for probes: %s", humanize.Count(n, "workers"), makes(n), s.Call, s.Reason)
		if s.Reason == tasks.Throttled {
			out = append(out, warning(s.Reason.Hint(), "%s", detail))
		} else {
			out = append(out, wrong(s.Reason.Hint(), "%s", detail))
		}
	}
	return out
}

func nameOf(r fleet.Report) string { return fmt.Sprintf("%s:%d", r.Host, r.PID) }

// settings compares what the workers that live say of themselves.
func (d *Doctor) settings(ctx context.Context) (out []Finding, err error) {
	reports, live, err := fleet.ReadReports(ctx, d.cfg.Redis)
	if err != nil {
		return nil, err
	}
	const hint = "give all workers of a Redis the same version and flags, and restart those that differ"
	values := make(map[string]map[string][]string) // workers by the value, by the setting
	add := func(name, value string, r fleet.Report) {
		if values[name] == nil {
			values[name] = make(map[string][]string)
		}
		values[name][value] = append(values[name][value], nameOf(r))
	}
	names := make(map[string]bool)
	for _, r := range reports {
		for name := range r.Settings {
			names[name] = true
		}
	}
	for _, r := range reports {
		add("version", r.Version, r)
		for name := range names {
			add(name, r.Settings[name], r)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 {
			out = append(out, warning(hint, "the workers that live differ in %s: %s", name, differing(values[name])))
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case live == 0:
		return skipped("no worker is alive"), nil
	case len(reports) < live:
		return []Finding{warning("upgrade the older workers, or look again in some seconds", "%d of %s say nothing of themselves: they are of an older version, or have just started", live-len(reports), humanize.Count(int64(live), "workers"))}, nil
	case live == 1:
		return ok("one worker, version %s", reports[0].Version), nil
	default:
		return ok("all workers that live have version %s, and the same settings", reports[0].Version), nil
	}
}

// differing names for each value the workers that have it, three at most.
func differing(byValue map[string][]string) string {
	var parts []string
	for _, value := range slices.Sorted(maps.Keys(byValue)) {
		workers := byValue[value]
		who := strings.Join(workers[:min(len(workers), 3)], ", ")
		if more := len(workers) - 3; more > 0 {
			who += fmt.Sprintf(" and %d more", more)
		}
		if value == "" {
			value = "none"
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", value, who))
	}
	return strings.Join(parts, "; ")
}
