package source

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// listed holds what Locks yielded.
type listed struct {
	locks []tasks.Lock
	rows  []*RowError
	err   error
}

func list(t *testing.T, locks iter.Seq2[tasks.Lock, error]) (got listed) {
	t.Helper()
	for l, err := range locks {
		row := asRowError(err)
		switch {
		case got.err != nil:
			t.Errorf("got %v, %v after the error %v, which should be the last", l, err, got.err)
		case row != nil:
			got.rows = append(got.rows, row)
		case err != nil:
			got.err = err
		default:
			got.locks = append(got.locks, l)
		}
	}
	return got
}

func hintIn(err error) string {
	e, _ := errors.AsType[*Error](err)
	if e == nil {
		return ""
	}
	return e.Hint()
}

func TestSQL_ManyRows(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			const rows = 50_000
			d.Table(t, "many")
			d.Exec(t, "INSERT INTO many SELECT CONCAT('u', i), CONCAT('l', i, '@1'), "+
				fmt.Sprintf(d.Pick("timestamptz '2026-01-31 08:30:00Z' + i * interval '1 second' FROM generate_series(1, %d) i",
					"TIMESTAMPADD(SECOND, i, CONVERT_TZ('2026-01-31 08:30:00', '+00:00', @@time_zone)) FROM (SELECT seq AS i FROM seq_1_to_%d) s"), rows))
			// A row is 2 kB, so that the list is far larger than the heap may be.
			s := d.open(t, "SELECT m.*, REPEAT('x', 2000) AS filler FROM many m")
			seen := make(map[string]bool, rows)
			first := time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)
			begin := time.Now()
			var most uint64
			for l, err := range s.Locks(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				var i int
				if _, err := fmt.Sscanf(l.UserID, "u%d", &i); err != nil {
					t.Fatal(err)
				}
				if l.LockID != fmt.Sprintf("l%d@1", i) || !l.ExpiresAt.Equal(first.Add(time.Duration(i)*time.Second)) {
					t.Fatalf("got %+v, want lock %d", l, i)
				}
				if seen[l.UserID] = true; len(seen)%5000 == 0 {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapInuse)
				}
			}
			t.Logf("%d rows in %s, heap at most %d MiB", len(seen), time.Since(begin), most>>20)
			if len(seen) != rows || most > 64<<20 {
				t.Errorf("got %d rows, heap at most %d MiB; want %d rows and 64 MiB", len(seen), most>>20, rows)
			}
		})
	}
}

// All three kinds of times are right although the server, and the session that
// wrote them, are in an odd zone.
func TestSQL_Times(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			d.Exec(t, "CREATE TABLE times (id VARCHAR(9), zoned "+d.Pick("timestamptz", "TIMESTAMP(6) NULL")+", plain "+d.Pick("timestamp", "DATETIME(6)")+", words VARCHAR(40))",
				// A session in the server's own zone writes its local time.
				"INSERT INTO times VALUES ('l1', '2026-07-01 14:15:16.25', '2026-07-01 08:30:16.25', '2026-07-01T10:30:16.25+02:00')")
			t.Cleanup(func() { _, _ = d.Admin.ExecContext(context.Background(), "DROP TABLE times") })
			want := time.Date(2026, 7, 1, 8, 30, 16, 250_000_000, time.UTC)
			for _, column := range []string{"zoned", "plain", "words"} {
				s := d.open(t, "SELECT 'u1' AS user_id, id AS lock_id, "+column+" AS expires_at FROM times")
				got := list(t, s.Locks(t.Context()))
				if got.err != nil || len(got.rows) > 0 || len(got.locks) != 1 || !got.locks[0].ExpiresAt.Equal(want) || got.locks[0].ExpiresAt.Location() != time.UTC {
					t.Errorf("%s: got %+v, want %s", column, got, want)
				}
				l, found, err := lookup(t.Context(), s, "u1", "l1")
				if err != nil || !found || !l.ExpiresAt.Equal(want) {
					t.Errorf("%s: Lookup got %+v, found %t, %v; want %s", column, l, found, err, want)
				}
			}
			// The server's clock, as a zoned and as a plain time.
			for _, now := range []string{"NOW()", d.Pick("LOCALTIMESTAMP", "UTC_TIMESTAMP()")} {
				s := d.open(t, "SELECT 'u1' AS user_id, 'l1' AS lock_id, "+now+" AS expires_at")
				got := list(t, s.Locks(t.Context()))
				if got.err != nil || len(got.locks) != 1 || time.Since(got.locks[0].ExpiresAt).Abs() > 10*time.Second {
					t.Errorf("%s: got %+v, want the present time", now, got)
				}
			}
		})
	}
}

func TestSQL_RowErrors(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			text := d.Pick("TEXT", "CHAR")
			s := d.open(t, "SELECT CAST(NULL AS "+text+") AS user_id, 'l1' AS lock_id, '2026-01-31T08:30:00Z' AS expires_at "+
				"UNION ALL SELECT 'u2', NULL, '2026-01-31T08:30:00Z' "+
				"UNION ALL SELECT 'u3', 'l3', NULL "+
				"UNION ALL SELECT 'u4', 'l4', '2026-01-31 08:30:00' "+
				"UNION ALL SELECT 'u5', 'l:5', '2026-01-31T08:30:00Z' "+
				"UNION ALL SELECT 'u6', 'l6', '1970-01-01T00:00:00Z' "+
				"UNION ALL SELECT 'u7', 'l7', '2026-01-31T08:30:00Z' "+
				"UNION ALL SELECT '', 'l8', '2026-01-31T08:30:00Z' "+
				"UNION ALL SELECT '1.50508E+18', 'l9', '2026-01-31T08:30:00Z' "+
				"UNION ALL SELECT 'u10', 'NULL', '2026-01-31T08:30:00Z' -- the end;")
			got := list(t, s.Locks(t.Context()))
			if got.err != nil || len(got.locks) != 1 || got.locks[0].UserID != "u7" {
				t.Fatalf("got %+v, want only the lock of u7", got)
			}
			for i, want := range []string{
				"row 1: user_id is NULL", "row 2: lock_id is NULL", "row 3 (user u3, lock l3): expires_at is NULL",
				`row 4 (user u4, lock l4): expires_at is "2026-01-31 08:30:00"; want RFC 3339`, "row 5: lock_id ",
				"row 6 (user u6, lock l6): expires_at is in the year 1970", "row 8: user_id ",
				`row 9 (user 1.50508E+18, lock l9): user_id is "1.50508E+18", which looks like a number`, `row 10 (user u10, lock NULL): lock_id is "NULL"`,
			} {
				if i >= len(got.rows) || !strings.HasPrefix(got.rows[i].Error(), want) {
					t.Errorf("got %v, want %q", got.rows, want)
				}
			}
			// The state of a lock with a malformed row is unknown.
			if l, found, err := lookup(t.Context(), s, "u3", "l3"); asRowError(err) == nil || found {
				t.Errorf("got %v, found %t, %v; want a RowError", l, found, err)
			}
			s.anyID = true
			if got := list(t, s.Locks(t.Context())); got.err != nil || len(got.locks) != 3 {
				t.Errorf("with AllowAnyID: got %+v, want the locks of u7, 1.50508E+18 and u10", got)
			}
		})
	}
}

func TestSQL_PlaceholderTimes(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			values := []string{"CAST('infinity' AS timestamptz)", "CAST('-infinity' AS timestamp)", "CAST('12026-01-01' AS timestamp)", "CAST('0044-03-15 BC' AS timestamptz)"}
			if d.Name == "MariaDB" {
				values = []string{"CAST('0000-00-00 00:00:00' AS DATETIME)", "FROM_UNIXTIME(1)"}
			}
			for _, value := range values {
				s := d.open(t, "SELECT 'u1' AS user_id, 'l1' AS lock_id, "+value+" AS expires_at")
				if got := list(t, s.Locks(t.Context())); got.err != nil || len(got.rows) != 1 || len(got.locks) != 0 {
					t.Errorf("%s: got %+v, want one RowError", value, got)
				}
			}
		})
	}
}

func TestSQL_QueriesRefused(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			d.Table(t, "refused")
			const ids, at = "'u1' AS user_id, 'l1' AS lock_id", "'2026-01-31T08:30:00Z' AS expires_at"
			for query, want := range map[string]string{
				"SELECT 'u1' AS uid, 'l1' AS lock_id, " + at: `no column user_id; it yields "uid, lock_id, expires_at"; want user_id, lock_id and expires_at`,
				"SELECT " + ids: "no column expires_at",
				"SELECT 1 AS user_id, 'l1' AS lock_id, " + at:                  "user_id is of the type " + d.Pick("INT4", "INT") + "; want text",
				"SELECT 'u1' AS user_id, CAST(1 AS DECIMAL) AS lock_id, " + at: "lock_id is of the type " + d.Pick("NUMERIC", "DECIMAL"),
				"SELECT " + ids + ", 1769848200 AS expires_at":                 "expires_at is of the type " + d.Pick("INT4", "BIGINT"),
				"SELECT " + ids + ", CAST('2026-01-31' AS DATE) AS expires_at": "expires_at is of the type DATE",
				"SELECT * FROM nowhere":                                        "nowhere",
				"SELECT user_id, lock_id, expires FROM refused":                "expires",
				"SELECT " + ids + ", " + at + "; SELECT 2":                     "syntax",
				"SELECT " + ids + ", " + at + "; DROP TABLE refused":           "syntax",
				"DELETE FROM refused":                                          "syntax",
				"UPDATE refused SET user_id = 'x' RETURNING *":                 "syntax",
				"this is no SQL":                         "syntax",
				"SELECT " + ids + ", " + at + ", " + ids: d.Pick("two columns user_id", "Duplicate column"),
				"SELECT " + ids + ", " + d.Pick("$1::text", "?") + " AS expires_at": d.Pick("", "syntax"),
			} {
				_, err := checked(t, d.DSN(), query)
				if err == nil {
					t.Errorf("%s: got no error", query)
					continue
				}
				if !strings.Contains(err.Error(), want) || hintIn(err) == "" || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: got %v; hint: %s; want %q on one line, and a hint", query, err, hintIn(err), want)
				}
			}
			// The query fails in the middle, so the list is incomplete.
			s := d.open(t, d.Pick(
				"SELECT 'u' || i AS user_id, 'l' || i AS lock_id, now() + (1000 / (500 - i)) * interval '1 s' AS expires_at FROM generate_series(1, 1000) i",
				"SELECT CONCAT('u', seq) AS user_id, CONCAT('l', seq) AS lock_id, IF(seq = 500, (SELECT NOW() FROM seq_1_to_2), NOW()) AS expires_at FROM seq_1_to_1000"))
			if got := list(t, s.Locks(t.Context())); got.err == nil || len(got.locks) >= 1000 {
				t.Errorf("a query that fails: got %d locks, %v; want an incomplete list and an error", len(got.locks), got.err)
			} else {
				t.Logf("%d locks, then %v", len(got.locks), got.err)
			}
		})
	}
}

// A function that the query calls cannot write.
func TestSQL_ReadOnly(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			d.Table(t, "kept")
			d.Exec(t, "INSERT INTO kept VALUES ('u1', 'l1', NOW())",
				d.Pick("CREATE FUNCTION wipe() RETURNS text LANGUAGE plpgsql AS $$ BEGIN DELETE FROM kept; RETURN 'u1'; END $$",
					"CREATE FUNCTION wipe() RETURNS TEXT BEGIN DELETE FROM kept; RETURN 'u1'; END"))
			t.Cleanup(func() { _, _ = d.Admin.ExecContext(context.Background(), "DROP FUNCTION wipe") })
			s, err := New(Config{DSN: d.DSN(), Query: "SELECT wipe() AS user_id, 'l1' AS lock_id, NOW() AS expires_at"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			if got := list(t, s.Locks(t.Context())); got.err == nil || hintIn(got.err) != hintSelect {
				t.Errorf("got %+v; hint: %s; want an error with the hint %q", got, hintIn(got.err), hintSelect)
			}
			if got := list(t, d.open(t, "SELECT * FROM kept;\n;").Locks(t.Context())); len(got.locks) != 1 {
				t.Errorf("got %+v, want the one lock: the query wrote", got)
			}
		})
	}
}

// slow takes a second for each row.
func (d database) slow() string {
	return d.Pick("SELECT 'u' || i AS user_id, 'l' || pg_sleep(1)::text AS lock_id, NOW() AS expires_at FROM generate_series(1, 60) i",
		"SELECT CONCAT('u', seq) AS user_id, CONCAT('l', SLEEP(1)) AS lock_id, NOW() AS expires_at FROM seq_1_to_60")
}

func TestSQL_CancelAndTimeout(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			s := d.open(t, d.slow())
			ctx, cancel := context.WithCancelCause(t.Context())
			timer := time.AfterFunc(200*time.Millisecond, func() { cancel(errors.New("enough")) })
			defer timer.Stop()
			got := list(t, s.Locks(ctx))
			if !errors.Is(got.err, context.Canceled) || !strings.HasSuffix(got.err.Error(), ": enough") || time.Since(begin) > 5*time.Second {
				t.Errorf("canceled: got %v after %s", got.err, time.Since(begin))
			}
			if _, _, err := lookup(ctx, s, "u1", "l1"); !errors.Is(err, context.Canceled) {
				t.Errorf("Lookup: got %v, want context.Canceled", err)
			}
			begin = time.Now()
			short, err := New(Config{DSN: d.DSN(), Query: d.slow(), Timeout: 300 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = short.Close() }()
			got = list(t, short.Locks(t.Context()))
			if !errors.Is(got.err, context.DeadlineExceeded) || !strings.Contains(got.err.Error(), "did not end within 300ms") || time.Since(begin) > 5*time.Second {
				t.Errorf("got %v after %s, want the timeout", got.err, time.Since(begin))
			}
		})
	}
}

// The server itself ends a query: a client that died cannot cancel it.
func TestSQL_ServerTimeout(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			s := d.open(t, d.slow())
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			tx, err := s.begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			if err := s.dialect.limit(t.Context(), tx, 200*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			rows, err := tx.QueryContext(t.Context(), s.query)
			if err == nil {
				for rows.Next() {
					continue
				}
				err = rows.Err()
				_ = rows.Close()
			}
			if f := s.dialect.explain(err); !f.timedOut {
				t.Errorf("got %v, want that the server ended the query", err)
			}
		})
	}
}

// A consumer that stops early does not wait for the remaining rows, and leaves no
// connection open.
func TestSQL_StopEarly(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			s := d.open(t, d.long())
			for range 10 { // more often than there are connections
				for _, err := range s.Locks(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		})
	}
}

// long yields more than fits into the buffers between the server and the client.
func (d database) long() string {
	return d.Pick("SELECT 'u' || i AS user_id, 'l' || i AS lock_id, NOW() AS expires_at, REPEAT('x', 2000) AS filler FROM generate_series(1, 50000) i",
		"SELECT CONCAT('u', seq) AS user_id, CONCAT('l', seq) AS lock_id, NOW() AS expires_at, REPEAT('x', 2000) AS filler FROM seq_1_to_50000")
}
