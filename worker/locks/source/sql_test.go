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

// listed is what became of a list.
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
			t.Errorf("after %v came %v, %v", got.err, l, err)
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

// lookAt looks at one lock.
func lookAt(ctx context.Context, s Source, userID, lockID string) (l tasks.Lock, found bool, err error) {
	sights, err := s.Lookup(ctx, []tasks.LockID{{UserID: userID, LockID: lockID}})
	if err != nil {
		return tasks.Lock{}, false, err
	}
	if sights[0].Err != nil {
		return tasks.Lock{}, false, sights[0].Err
	}
	if !sights[0].Found {
		return tasks.Lock{}, false, nil
	}
	return tasks.Lock{UserID: userID, LockID: lockID, ExpiresAt: sights[0].ExpiresAt}, true, nil
}

func hintIn(err error) string {
	e, _ := errors.AsType[*Error](err)
	if e == nil {
		return ""
	}
	return e.Hint()
}

func TestFiftyThousandRows(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			const rows = 50_000
			d.Table(t, "many")
			d.Exec(t, "INSERT INTO many SELECT CONCAT('u', i), CONCAT('l', i, '@1'), "+
				fmt.Sprintf(d.Pick("timestamptz '2026-01-31 08:30:00Z' + i * interval '1 second' FROM generate_series(1, %d) i",
					"TIMESTAMPADD(SECOND, i, CONVERT_TZ('2026-01-31 08:30:00', '+00:00', @@time_zone)) FROM (SELECT seq AS i FROM seq_1_to_%d) s"), rows))
			// A row is 2 kB, so that the list is far larger than what may be held.
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
					t.Fatalf("got %+v", l)
				}
				if seen[l.UserID] = true; len(seen)%5000 == 0 {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapInuse)
				}
			}
			t.Logf("%d rows in %s, heap at most %d MiB", len(seen), time.Since(begin), most>>20)
			if len(seen) != rows || most > 64<<20 {
				t.Errorf("got %d rows, heap at most %d MiB", len(seen), most>>20)
			}
		})
	}
}

// The three kinds of times, with the server, and whoever wrote, in an odd zone.
func TestTimesAreRightToTheSecond(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			d.Exec(t, "CREATE TABLE times (id VARCHAR(9), zoned "+d.Pick("timestamptz", "TIMESTAMP(6) NULL")+", plain "+d.Pick("timestamp", "DATETIME(6)")+", words VARCHAR(40))",
				// What a session in the server's own zone writes as its local time.
				"INSERT INTO times VALUES ('l1', '2026-07-01 14:15:16.25', '2026-07-01 08:30:16.25', '2026-07-01T10:30:16.25+02:00')")
			t.Cleanup(func() { _, _ = d.Admin.ExecContext(context.Background(), "DROP TABLE times") })
			want := time.Date(2026, 7, 1, 8, 30, 16, 250_000_000, time.UTC)
			for _, column := range []string{"zoned", "plain", "words"} {
				s := d.open(t, "SELECT 'u1' AS user_id, id AS lock_id, "+column+" AS expires_at FROM times")
				got := list(t, s.Locks(t.Context()))
				if got.err != nil || len(got.rows) > 0 || len(got.locks) != 1 || !got.locks[0].ExpiresAt.Equal(want) || got.locks[0].ExpiresAt.Location() != time.UTC {
					t.Errorf("%s: got %+v, want %s", column, got, want)
				}
				l, found, err := lookAt(t.Context(), s, "u1", "l1")
				if err != nil || !found || !l.ExpiresAt.Equal(want) {
					t.Errorf("%s: a look got %+v %t %v", column, l, found, err)
				}
			}
			// The server's clock, as a zoned and as a plain time.
			for _, now := range []string{"NOW()", d.Pick("LOCALTIMESTAMP", "UTC_TIMESTAMP()")} {
				s := d.open(t, "SELECT 'u1' AS user_id, 'l1' AS lock_id, "+now+" AS expires_at")
				got := list(t, s.Locks(t.Context()))
				if got.err != nil || len(got.locks) != 1 || time.Since(got.locks[0].ExpiresAt).Abs() > 10*time.Second {
					t.Errorf("%s: got %+v", now, got)
				}
			}
		})
	}
}

func TestRowsThatAreNoLocks(t *testing.T) {
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
				"UNION ALL SELECT '', 'l8', '2026-01-31T08:30:00Z' -- the end;")
			got := list(t, s.Locks(t.Context()))
			if got.err != nil || len(got.locks) != 1 || got.locks[0].UserID != "u7" {
				t.Fatalf("got %+v", got)
			}
			for i, want := range []string{
				"row 1: user_id is NULL", "row 2: lock_id is NULL", "row 3 (user u3, lock l3): expires_at is NULL",
				`row 4 (user u4, lock l4): expires_at is "2026-01-31 08:30:00"; want RFC 3339`, "row 5: lock_id ",
				"row 6 (user u6, lock l6): expires_at is in the year 1970", "row 8: user_id ",
			} {
				if i >= len(got.rows) || !strings.HasPrefix(got.rows[i].Error(), want) {
					t.Errorf("want %q among %v", want, got.rows)
				}
			}
			// Nothing is known of a lock whose row is malformed.
			if l, found, err := lookAt(t.Context(), s, "u3", "l3"); asRowError(err) == nil || found {
				t.Errorf("got %v %t %v", l, found, err)
			}
		})
	}
}

func TestTimesThatAreNone(t *testing.T) {
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
					t.Errorf("%s: got %+v", value, got)
				}
			}
		})
	}
}

func TestQueriesThatAreRefused(t *testing.T) {
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
				s, err := Open(t.Context(), d.DSN(), query)
				if err == nil {
					_ = s.Close()
					t.Errorf("%s: is taken", query)
					continue
				}
				if !strings.Contains(err.Error(), want) || hintIn(err) == "" || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: got %v; hint: %s", query, err, hintIn(err))
				}
			}
			// It fails halfway, and what came before is not a list.
			s := d.open(t, d.Pick(
				"SELECT 'u' || i AS user_id, 'l' || i AS lock_id, now() + (1000 / (500 - i)) * interval '1 s' AS expires_at FROM generate_series(1, 1000) i",
				"SELECT CONCAT('u', seq) AS user_id, CONCAT('l', seq) AS lock_id, IF(seq = 500, (SELECT NOW() FROM seq_1_to_2), NOW()) AS expires_at FROM seq_1_to_1000"))
			if got := list(t, s.Locks(t.Context())); got.err == nil || len(got.locks) >= 1000 {
				t.Errorf("a query that fails: got %d, %v", len(got.locks), got.err)
			} else {
				t.Logf("%d locks, then %v", len(got.locks), got.err)
			}
		})
	}
}

// What a query calls may write, and must not.
func TestReadOnly(t *testing.T) {
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
				t.Errorf("got %+v; hint: %s", got, hintIn(got.err))
			}
			if got := list(t, d.open(t, "SELECT * FROM kept;\n;").Locks(t.Context())); len(got.locks) != 1 {
				t.Errorf("it wrote: %+v", got)
			}
		})
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			d.Table(t, "looks")
			d.Exec(t, "INSERT INTO looks VALUES ('u1', 'l1@1', '2026-01-31 08:30:00'), ('U1', 'x', '2026-01-31 08:30:00')")
			s := d.open(t, "SELECT * FROM looks ORDER BY expires_at; ")
			look := func(user, lock string) (time.Time, bool) {
				t.Helper()
				l, found, err := lookAt(t.Context(), s, user, lock)
				if err != nil || found && (l.UserID != user || l.LockID != lock) {
					t.Fatalf("got %+v, %v", l, err)
				}
				return l.ExpiresAt, found
			}
			before, found := look("u1", "l1@1")
			if !found {
				t.Fatal("it is not there")
			}
			d.Exec(t, "UPDATE looks SET expires_at = "+d.Pick("expires_at + interval '1 hour'", "TIMESTAMPADD(HOUR, 1, expires_at)")+" WHERE user_id = 'u1' AND lock_id = 'l1@1'")
			if after, found := look("u1", "l1@1"); !found || after.Sub(before) != time.Hour {
				t.Errorf("renewed: got %s %t, before %s", after, found, before)
			}
			d.Exec(t, "DELETE FROM looks WHERE lock_id = 'l1@1'")
			for _, id := range [][2]string{{"u1", "l1@1"}, {"u1", "x"}, {"U1", "X"}, {"U1 ", "x"}, {"u1' OR '1'='1", "x"}} {
				if _, found := look(id[0], id[1]); found {
					t.Errorf("%q is there", id)
				}
			}
			if _, found := look("U1", "x"); !found {
				t.Error("U1 is gone")
			}
			twice := d.open(t, "SELECT user_id, lock_id, expires_at FROM looks UNION ALL SELECT 'U1', 'x', "+d.Pick("timestamptz '2027-01-31 08:30:00Z'", "CAST('2027-01-31 08:30:00' AS DATETIME)"))
			if l, _, err := lookAt(t.Context(), twice, "U1", "x"); err != nil || l.ExpiresAt.Year() != 2027 {
				t.Errorf("twice: got %+v, %v", l, err)
			}
			often := d.open(t, d.Pick("SELECT 'u' AS user_id, 'l' AS lock_id, NOW() AS expires_at FROM generate_series(1, 200) i", "SELECT 'u' AS user_id, 'l' AS lock_id, NOW() AS expires_at FROM seq_1_to_200"))
			if _, found, err := lookAt(t.Context(), often, "u", "l"); err == nil || found {
				t.Errorf("too often: got %t, %v", found, err)
			}
		})
	}
}

// However the columns are written, of a hundred locks each is found that is there,
// and no other that the database holds for equal.
func TestLookAtMany(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			if d.Name == "PostgreSQL" {
				d.Exec(t, "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
				t.Cleanup(func() { _, _ = d.Admin.ExecContext(context.Background(), "DROP COLLATION caseless") })
			}
			for i, columns := range [][2]string{
				{d.Pick("text", "VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"), d.Pick("varchar(80)", "VARCHAR(80) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")},
				{d.Pick("name", "VARCHAR(128) CHARACTER SET latin1"), d.Pick("text", "VARBINARY(80)")},
				{d.Pick("text COLLATE caseless", "CHAR(128) CHARACTER SET utf8mb3"), d.Pick("text COLLATE caseless", "VARCHAR(80) CHARACTER SET ucs2")},
			} {
				for j, index := range []string{"", "user_id, lock_id", "lock_id, user_id"} {
					table := fmt.Sprintf("lookat%d%d", i, j)
					d.Exec(t, "CREATE TABLE "+table+" (user_id "+columns[0]+", lock_id "+columns[1]+")")
					t.Cleanup(func() { _, _ = d.Admin.ExecContext(context.Background(), "DROP TABLE "+table) })
					if index != "" {
						d.Exec(t, "CREATE INDEX i"+table+" ON "+table+" ("+index+")")
					}
					d.Exec(t, "INSERT INTO "+table+" SELECT CONCAT('user-', i), CONCAT('lock-', i, '@102') FROM "+d.Pick("generate_series(1, 300) i", "(SELECT seq AS i FROM seq_1_to_300) s"))
					names := make([]tasks.LockID, 0, 150)
					for i := range 50 {
						n := 1 + 6*i
						names = append(names, tasks.LockID{UserID: fmt.Sprintf("user-%d", n), LockID: fmt.Sprintf("lock-%d@102", n)},
							tasks.LockID{UserID: fmt.Sprintf("User-%d", n), LockID: fmt.Sprintf("lock-%d@102", n)}, tasks.LockID{UserID: fmt.Sprintf("user-%d", n), LockID: fmt.Sprintf("lock-%d@102", n+6)})
					}
					s := d.open(t, "SELECT user_id, lock_id, NOW() AS expires_at FROM "+table)
					sights, err := s.Lookup(t.Context(), names)
					if err != nil || len(sights) != len(names) {
						t.Fatalf("%v: got %d, %v", columns, len(sights), err)
					}
					for i, sight := range sights {
						if sight.Found != (i%3 == 0) || sight.Err != nil {
							t.Errorf("%v, index on %q: %v is there: %t, %v", columns, index, names[i], sight.Found, sight.Err)
						}
					}
				}
			}
		})
	}
}

// slow takes a second for each of its rows.
func (d database) slow() string {
	return d.Pick("SELECT 'u' || i AS user_id, 'l' || pg_sleep(1)::text AS lock_id, NOW() AS expires_at FROM generate_series(1, 60) i",
		"SELECT CONCAT('u', seq) AS user_id, CONCAT('l', SLEEP(1)) AS lock_id, NOW() AS expires_at FROM seq_1_to_60")
}

func TestCancelAndTimeout(t *testing.T) {
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
				t.Errorf("got %v after %s", got.err, time.Since(begin))
			}
			if _, _, err := lookAt(ctx, s, "u1", "l1"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			begin = time.Now()
			short, err := New(Config{DSN: d.DSN(), Query: d.slow(), Timeout: 300 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = short.Close() }()
			got = list(t, short.Locks(t.Context()))
			if !errors.Is(got.err, context.DeadlineExceeded) || !strings.Contains(got.err.Error(), "did not end within 300ms") || time.Since(begin) > 5*time.Second {
				t.Errorf("got %v after %s", got.err, time.Since(begin))
			}
		})
	}
}

// The server ends a query by itself: a client that died cannot cancel.
func TestTheServerKnowsTheTimeout(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			s := d.open(t, d.slow())
			tx, err := s.begin(t.Context())
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
				t.Errorf("got %v", err)
			}
		})
	}
}

// Who stops early does not wait for what is left, and leaves nothing open.
func TestStopEarly(t *testing.T) {
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

// long yields more than fits into what lies between the server and us.
func (d database) long() string {
	return d.Pick("SELECT 'u' || i AS user_id, 'l' || i AS lock_id, NOW() AS expires_at, REPEAT('x', 2000) AS filler FROM generate_series(1, 50000) i",
		"SELECT CONCAT('u', seq) AS user_id, CONCAT('l', seq) AS lock_id, NOW() AS expires_at, REPEAT('x', 2000) AS filler FROM seq_1_to_50000")
}
