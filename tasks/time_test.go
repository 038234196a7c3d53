package tasks_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func TestParseTime(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-31T08:30:00Z": at, "2026-01-31T09:30:00+01:00": at, "2026-01-31T08:30:00.005Z": at.Add(5 * time.Millisecond),
		"2026-01-30T23:30:00.000000001-09:00": at.Add(1),
	} {
		got, err := tasks.ParseTime("expires_at", text)
		if err != nil || !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "soon", "2026-01-31", "2026-01-31T08:30:00", "2026-01-31 08:30:00Z", "2026-01-31T8:30:00Z", "2026-01-31T08:30:00,5Z",
		"2026-01-31T08:30:00+00:60", "2026-01-31T08:30:00+24:00", "2026-02-30T08:30:00Z", "2026-01-31T08:30:00Z ", "1769848200",
	} {
		_, err := tasks.ParseTime("expires_at", text)
		if field, ok := errors.AsType[*tasks.FieldError](err); !ok || field.Field != "expires_at" {
			t.Errorf("%q: %v; want a FieldError", text, err)
		}
	}
}
