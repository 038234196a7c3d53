package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/cancelable"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
)

func (d *Doctor) scheduleChecks() []check {
	return []check{{"schedules.doubled", redisLimit, d.doubled}}
}

// doubled finds schedules of one source that differ: each of them sweeps.
func (d *Doctor) doubled(ctx context.Context) (out []Finding, err error) {
	entries, err := cancelable.Call(ctx, asynq.NewInspectorFromRedisClient(d.cfg.Redis).SchedulerEntries)
	if err != nil {
		return nil, err
	}
	bySource := make(map[tasks.SourceKind]map[string]int64) // how many schedulers have a schedule
	for _, e := range entries {
		task, _, err := tasks.Decode(tasks.Kind(e.Task.Type()), e.Task.Payload())
		sweep, isSweep := task.(tasks.LockSweep)
		if err != nil || !isSweep {
			continue
		}
		if sweep.Source == "" {
			sweep.Source = tasks.SourceLedger
		}
		if bySource[sweep.Source] == nil {
			bySource[sweep.Source] = make(map[string]int64)
		}
		bySource[sweep.Source][describe(e.Spec, sweep)]++
	}
	var well []string
	for _, source := range slices.Sorted(maps.Keys(bySource)) {
		schedules := bySource[source]
		var texts []string
		for _, text := range slices.Sorted(maps.Keys(schedules)) {
			texts = append(texts, fmt.Sprintf("%s (%s)", text, humanize.Count(schedules[text], "schedulers")))
		}
		if len(texts) > 1 {
			out = append(out, warning("give all schedulers the same flags (--sweep-every or --sweep-cron, --sweep-zone, and the limits), and restart those that differ",
				"the locks of source %s are swept by %d schedules that differ: %s", source, len(texts), strings.Join(texts, "; ")))
		}
		well = append(well, fmt.Sprintf("%s: %s", source, texts[0]))
	}
	switch {
	case len(out) > 0:
		return out, nil
	case len(well) == 0:
		return ok("no scheduler of sweeps is alive"), nil
	default:
		return ok("each source has one schedule: %s", strings.Join(well, "; ")), nil
	}
}

// describe says when a schedule sweeps, and within which limits.
func describe(spec string, s tasks.LockSweep) string {
	if at, rest, isCron := strings.Cut(spec, " "); isCron && strings.HasPrefix(at, "CRON_TZ=") {
		spec = rest + " " + strings.TrimPrefix(at, "CRON_TZ=")
	}
	text := fmt.Sprintf("%s, at most %d locks and %.0f %%, %s after their expiry", spec, s.Max, 100*s.MaxShare, humanize.Age(max(s.Grace, time.Second)))
	if s.Force {
		text += ", forced"
	}
	return text
}
