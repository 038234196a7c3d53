package source

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestLocalTimes_Last(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ zone, wall, want string }{
		{"UTC", "2026-07-01 08:30:16.25", "2026-07-01T08:30:16.25Z"},
		{"America/New_York", "2026-07-01 08:30:16.25", "2026-07-01T12:30:16.25Z"},
		{"America/New_York", "2026-01-31 08:30:00", "2026-01-31T13:30:00Z"},
		{"Asia/Kathmandu", "2026-01-31 08:30:00", "2026-01-31T02:45:00Z"},
		// The clocks are put forward at 2:00, and back at 2:00.
		{"America/New_York", "2026-03-08 01:59:59", "2026-03-08T06:59:59Z"},
		{"America/New_York", "2026-03-08 02:00:00", "2026-03-08T07:00:00Z"},
		{"America/New_York", "2026-03-08 02:30:00", "2026-03-08T07:30:00Z"},
		{"America/New_York", "2026-03-08 03:00:00", "2026-03-08T07:00:00Z"},
		{"America/New_York", "2026-11-01 00:59:59", "2026-11-01T04:59:59Z"},
		{"America/New_York", "2026-11-01 01:00:00", "2026-11-01T06:00:00Z"},
		{"America/New_York", "2026-11-01 01:30:00", "2026-11-01T06:30:00Z"},
		{"America/New_York", "2026-11-01 02:00:00", "2026-11-01T07:00:00Z"},
		{"Europe/Berlin", "2026-03-29 02:30:00", "2026-03-29T01:30:00Z"},
		{"Europe/Berlin", "2026-10-25 01:59:59", "2026-10-24T23:59:59Z"},
		{"Europe/Berlin", "2026-10-25 02:30:00", "2026-10-25T01:30:00Z"},
		{"Europe/Berlin", "2026-10-25 03:00:00", "2026-10-25T02:00:00Z"},
		// By half an hour.
		{"Australia/Lord_Howe", "2026-04-05 01:45:00", "2026-04-04T15:15:00Z"},
		{"Australia/Lord_Howe", "2026-10-04 02:15:00", "2026-10-03T15:45:00Z"},
		// A day that the clocks skipped.
		{"Pacific/Apia", "2011-12-29 23:59:59", "2011-12-30T09:59:59Z"},
		{"Pacific/Apia", "2011-12-30 12:00:00", "2011-12-30T22:00:00Z"},
		{"Pacific/Apia", "2011-12-31 00:00:00", "2011-12-30T10:00:00Z"},
	} {
		wall, err := time.Parse(time.DateTime, c.wall)
		if err != nil {
			t.Fatal(err)
		}
		if _, last := LocalTimes(wall, zone(t, c.zone)); last.UTC().Format(time.RFC3339Nano) != c.want {
			t.Errorf("%s in %s: got %s, want %s", c.wall, c.zone, last, c.want)
		}
	}
}

// Every time is read back from its local form as itself, or as another time with the
// same local form: an earlier one is the first, and a later one the last.
func FuzzLocalTimes(f *testing.F) {
	zones := []string{"UTC", "America/New_York", "Europe/Dublin", "Africa/Casablanca", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"}
	f.Add(int64(1793511000), uint8(1))
	f.Add(int64(1325196000), uint8(5))
	f.Fuzz(func(t *testing.T, unix int64, i uint8) {
		const year2000, year9999 = 946684800, 253370764800
		unix = year2000 + (unix&(1<<62-1))%(year9999-year2000)
		z := zone(t, zones[int(i)%len(zones)])
		at := time.Unix(unix, 0).In(z)
		wall := time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
		first, last := LocalTimes(wall, z)
		if last.Before(at) || last.In(z).Format(time.DateTime) != at.Format(time.DateTime) {
			t.Errorf("%s in %s: got the last time %s", at, z, last)
		}
		if first.After(at) || first.In(z).Format(time.DateTime) != at.Format(time.DateTime) {
			t.Errorf("%s in %s: got the first time %s", at, z, first)
		}
	})
}

// Config.Location is the zone of types that have none, and of no other type.
func TestSQL_LocalTimes(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			d.Exec(t, "CREATE TABLE zones (id VARCHAR(9), zoned "+d.Pick("timestamptz", "TIMESTAMP(6) NULL")+", plain "+d.Pick("timestamp", "DATETIME(6)")+", words VARCHAR(40))")
			t.Cleanup(func() { _, _ = d.Admin.ExecContext(context.Background(), "DROP TABLE zones") })
			var names []tasks.LockID
			want := map[string]map[string]time.Time{"zoned": {}, "plain": {}, "words": {}, "MAX(plain)": {}, "MAX(zoned)": {}}
			for i, c := range []struct{ plain, utc, newYork string }{
				{"2026-07-01 08:30:16.25", "2026-07-01T08:30:16.25Z", "2026-07-01T12:30:16.25Z"},
				{"2026-01-31 08:30:00", "2026-01-31T08:30:00Z", "2026-01-31T13:30:00Z"},
				{"2026-03-08 02:30:00", "2026-03-08T02:30:00Z", "2026-03-08T07:30:00Z"}, // does not exist
				{"2026-11-01 01:30:00", "2026-11-01T01:30:00Z", "2026-11-01T06:30:00Z"}, // exists twice
				{"2026-11-01 20:30:00", "2026-11-01T20:30:00Z", "2026-11-02T01:30:00Z"}, // on the next day
			} {
				utc, err := time.Parse(time.RFC3339, c.utc)
				if err != nil {
					t.Fatal(err)
				}
				newYork, err := time.Parse(time.RFC3339, c.newYork)
				if err != nil {
					t.Fatal(err)
				}
				id := fmt.Sprintf("l%d", i)
				names = append(names, tasks.LockID{UserID: "u1", LockID: id})
				d.Exec(t, fmt.Sprintf("INSERT INTO zones VALUES ('%s', %s, '%s', '%s')", id,
					// In the server's own zone.
					d.Pick("timestamptz '"+c.utc+"'", "CONVERT_TZ('"+utc.Format("2006-01-02 15:04:05.999999")+"', '+00:00', @@time_zone)"), c.plain, c.utc))
				for column, of := range want {
					if of[id] = utc; strings.Contains(column, "plain") {
						of[id] = newYork
					}
				}
			}
			for column, want := range want {
				query := "SELECT 'u1' AS user_id, id AS lock_id, " + column + " AS expires_at FROM zones"
				if strings.HasPrefix(column, "MAX") {
					query += " GROUP BY id"
				}
				s, err := New(Config{DSN: d.DSN(), Query: query, Location: zone(t, "America/New_York")})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = s.Close() }()
				got := list(t, s.Locks(t.Context()))
				if got.err != nil || len(got.rows) > 0 || len(got.locks) != len(names) {
					t.Errorf("%s: got %+v, want %d locks", column, got, len(names))
				}
				for _, l := range got.locks {
					if !l.ExpiresAt.Equal(want[l.LockID]) || l.ExpiresAt.Location() != time.UTC {
						t.Errorf("%s: got %+v, want %s", column, l, want[l.LockID])
					}
				}
				states, err := s.Lookup(t.Context(), names)
				if err != nil {
					t.Fatal(err)
				}
				for i, state := range states {
					if at := want[names[i].LockID]; !state.Found || state.Err != nil || !state.ExpiresAt.Equal(at) || state.ExpiresAt.Location() != time.UTC {
						t.Errorf("%s: Lookup of %s got %+v, want %s", column, names[i].LockID, state, at)
					}
				}
			}
		})
	}
}
