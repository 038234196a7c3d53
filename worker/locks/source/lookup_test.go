package source

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// lookup looks one lock up.
func lookup(ctx context.Context, s List, userID, lockID string) (l tasks.Lock, found bool, err error) {
	states, err := s.Lookup(ctx, []tasks.LockID{{UserID: userID, LockID: lockID}})
	if err != nil {
		return tasks.Lock{}, false, err
	}
	if states[0].Err != nil {
		return tasks.Lock{}, false, states[0].Err
	}
	if !states[0].Found {
		return tasks.Lock{}, false, nil
	}
	return tasks.Lock{UserID: userID, LockID: lockID, ExpiresAt: states[0].ExpiresAt}, true, nil
}

func TestSQL_Lookup(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			d.Table(t, "lookups")
			d.Exec(t, "INSERT INTO lookups VALUES ('u1', 'l1@1', '2026-01-31 08:30:00'), ('U1', 'x', '2026-01-31 08:30:00')")
			s := d.open(t, "SELECT * FROM lookups ORDER BY expires_at; ")
			find := func(user, lock string) (time.Time, bool) {
				t.Helper()
				l, found, err := lookup(t.Context(), s, user, lock)
				if err != nil || found && (l.UserID != user || l.LockID != lock) {
					t.Fatalf("got %+v, %v; want lock %s of %s, or none", l, err, lock, user)
				}
				return l.ExpiresAt, found
			}
			before, found := find("u1", "l1@1")
			if !found {
				t.Fatal("the lock was not found")
			}
			d.Exec(t, "UPDATE lookups SET expires_at = "+d.Pick("expires_at + interval '1 hour'", "TIMESTAMPADD(HOUR, 1, expires_at)")+" WHERE user_id = 'u1' AND lock_id = 'l1@1'")
			if after, found := find("u1", "l1@1"); !found || after.Sub(before) != time.Hour {
				t.Errorf("renewed: got %s, found %t; want an hour after %s", after, found, before)
			}
			d.Exec(t, "DELETE FROM lookups WHERE lock_id = 'l1@1'")
			for _, id := range [][2]string{{"u1", "l1@1"}, {"u1", "x"}, {"U1", "X"}, {"U1 ", "x"}, {"u1' OR '1'='1", "x"}} {
				if _, found := find(id[0], id[1]); found {
					t.Errorf("%q was found", id)
				}
			}
			if _, found := find("U1", "x"); !found {
				t.Error("U1 was not found")
			}
			twice := d.open(t, "SELECT user_id, lock_id, expires_at FROM lookups UNION ALL SELECT 'U1', 'x', "+d.Pick("timestamptz '2027-01-31 08:30:00Z'", "CAST('2027-01-31 08:30:00' AS DATETIME)"))
			if l, _, err := lookup(t.Context(), twice, "U1", "x"); err != nil || l.ExpiresAt.Year() != 2027 {
				t.Errorf("twice: got %+v, %v; want the later expiry", l, err)
			}
			often := d.open(t, d.Pick("SELECT 'u' AS user_id, 'l' AS lock_id, NOW() AS expires_at FROM generate_series(1, 200) i", "SELECT 'u' AS user_id, 'l' AS lock_id, NOW() AS expires_at FROM seq_1_to_200"))
			if _, found, err := lookup(t.Context(), often, "u", "l"); err == nil || found {
				t.Errorf("200 times: found %t, %v; want an error", found, err)
			}
		})
	}
}

// Whatever the types and collations of the columns are, Lookup finds exactly the
// locks that exist, and none that only the database considers equal.
func TestSQL_LookupMany(t *testing.T) {
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
					table := fmt.Sprintf("lookup%d%d", i, j)
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
					states, err := s.Lookup(t.Context(), names)
					if err != nil || len(states) != len(names) {
						t.Fatalf("%v: got %d states, %v; want %d", columns, len(states), err, len(names))
					}
					for i, state := range states {
						if state.Found != (i%3 == 0) || state.Err != nil {
							t.Errorf("%v, index on %q: %v: found %t, %v", columns, index, names[i], state.Found, state.Err)
						}
					}
				}
			}
		})
	}
}
