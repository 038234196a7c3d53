package main

import (
	"fmt"
	"reflect"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/common/model"
)

// durations says how flags are read that are durations.
func durations() kong.Option { return textMapper(parseDuration) }

// instants says how flags are read that are points in time.
func instants() kong.Option { return textMapper(parseInstant) }

// textMapper lets parse read the flags of a type.
func textMapper[T any](parse func(string) (T, error)) kong.Option {
	return kong.TypeMapper(reflect.TypeFor[T](), kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
		var text string
		if err := ctx.Scan.PopValueInto("text", &text); err != nil {
			return err
		}
		value, err := parse(text)
		if err != nil {
			return err
		}
		target.Set(reflect.ValueOf(value))
		return nil
	}))
}

// parseInstant reads a point in time.
func parseInstant(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a time; want for example 2026-12-01T00:00:00Z, or 2026-12-01T08:00:00+08:00", text)
	}
	return t, nil
}

// parseDuration reads a duration as Go writes it, such as 1h30m or 1.5s, or as
// Prometheus does, such as 30d or 1w2d. A day has 24 hours.
func parseDuration(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; want for example 90s, 1h30m, 30d or 2w", text)
	}
	return time.Duration(d), nil
}
