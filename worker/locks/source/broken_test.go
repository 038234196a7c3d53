package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// The tests that break a server are not parallel: see package sourcetest.
func TestSQL_ConnectionBreaks(t *testing.T) {
	for name, crash := range map[string]func(t *testing.T, d database){
		"connection": func(t *testing.T, d database) {
			t.Helper()
			d.Exec(t, d.Pick("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kooworker'",
				fmt.Sprintf("KILL %d", connectionID(t, d))))
		},
		"process": func(t *testing.T, d database) {
			t.Helper()
			if d.Name == "MariaDB" {
				d.Restart(t)
				return
			}
			if err := syscall.Kill(connectionID(t, d), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		},
		"server": func(t *testing.T, d database) {
			t.Helper()
			d.Restart(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range both(t) {
				t.Run(d.Name, func(t *testing.T) {
					s := d.open(t, d.long())
					var got listed
					for l, err := range s.Locks(t.Context()) {
						if err != nil {
							got.err = err
							continue
						}
						if got.locks = append(got.locks, l); len(got.locks) == 100 {
							crash(t, d)
						}
					}
					if got.err == nil || asRowError(got.err) != nil || len(got.locks) >= 50_000 {
						t.Fatalf("got %d locks and %v; want an incomplete list and an error", len(got.locks), got.err)
					}
					t.Logf("%d locks, then %v; hint: %s", len(got.locks), got.err, hintIn(got.err))
					if hintIn(got.err) != hintBroke {
						t.Errorf("got the hint %q, want %q", hintIn(got.err), hintBroke)
					}
					// A server that has not noticed the crash yet still answers, and ends all
					// connections after that.
					redistest.Eventually(t, 30*time.Second, "a lookup and a list are complete again", func() bool {
						_, found, err := lookup(t.Context(), s, "u7", "l7")
						next := list(t, s.Locks(t.Context()))
						return found && err == nil && next.err == nil && len(next.locks) == 50_000
					})
				})
			}
		})
	}
}

// connectionID returns the id of the connection that reads, in PostgreSQL the id of
// its process.
func connectionID(t *testing.T, d database) (id int) {
	t.Helper()
	if err := d.Admin.QueryRowContext(t.Context(), d.Pick(
		"SELECT pid FROM pg_stat_activity WHERE application_name = 'kooworker' AND state = 'active'",
		"SELECT id FROM information_schema.processlist WHERE info LIKE '%REPEAT%' AND id <> CONNECTION_ID()")).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// All idle connections die at once. The next call succeeds all the same.
func TestSQL_IdleConnectionsDie(t *testing.T) {
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			s := d.open(t, "SELECT 'u1' AS user_id, 'l1' AS lock_id, NOW() AS expires_at")
			done := make(chan error, maxConns)
			for range maxConns {
				go func() {
					_, _, err := lookup(t.Context(), s, "u1", "l1")
					done <- err
				}()
			}
			for range maxConns {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			d.Restart(t)
			if _, found, err := lookup(t.Context(), s, "u1", "l1"); err != nil || !found {
				t.Errorf("found %t, %v; want the lock", found, err)
			}
		})
	}
}

func TestSQL_DatabaseDownAtFirst(t *testing.T) {
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			d.Kill()
			s, err := New(Config{DSN: d.DSN(), Query: "SELECT 'u1' AS user_id, 'l1' AS lock_id, NOW() AS expires_at"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			got := list(t, s.Locks(t.Context()))
			if got.err == nil || !strings.Contains(got.err.Error(), "connection refused") || hintIn(got.err) != hintReach {
				t.Errorf("got %v; hint: %s; want that the connection is refused, and how to reach the server", got.err, hintIn(got.err))
			}
			t.Log(got.err)
			d.Restart(t)
			if got := list(t, s.Locks(t.Context())); got.err != nil || len(got.locks) != 1 {
				t.Errorf("got %+v, want one lock", got)
			}
		})
	}
}

// encoded returns a password in the form that a URL needs.
func encoded(password string) string {
	return strings.TrimPrefix(url.UserPassword("", password).String(), ":")
}

func TestSQL_PasswordsHidden(t *testing.T) {
	t.Parallel()
	const secret = "s3cr/t:p@ss?w#rd%41"
	parts := []string{"s3cr", "p@ss", "w#rd", encoded(secret), url.QueryEscape(secret), url.PathEscape(secret)}
	check := func(t *testing.T, what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: got no error", what)
			return
		}
		for ; err != nil; err = errors.Unwrap(err) {
			for _, shown := range []string{err.Error(), hintIn(err), fmt.Sprintf("%+v %#v", err, err)} {
				for _, part := range parts {
					if strings.Contains(shown, part) {
						t.Errorf("%s: the secret %q is shown in %s", what, part, shown)
					}
				}
			}
		}
	}
	const query = "SELECT 1"
	for _, dsn := range []string{
		"postgres://me:" + secret + "@127.0.0.1:1/db", "mysql://me:" + secret + "@127.0.0.1:1/db",
		"postgres://me:12/" + secret + "@127.0.0.1:1/db", "mysql://me:12?" + secret + "@127.0.0.1:1/db",
		"postgres://me:s3cr%zz@127.0.0.1:1/db", "postgres://me:s3cr@127.0.0.1:port/db", "mysql://me:s3cr@127.0.0.1:port/db",
		"postgres://me:s3cr@127.0.0.1:1/db?sslmode=s3cr", "postgres://me:s3cr@127.0.0.1:1/db?timezone=CET",
		"mysql://me:s3cr@127.0.0.1:1/db?tls=s3cr", "mysql://me:s3cr@/db", "mysql://me:s3cr@127.0.0.1:1/db?loc=Europe%2FBerlin",
		"mysql://me:s3cr@127.0.0.1:1/db?time_zone=%27SYSTEM%27", "mysql://me:s3cr@127.0.0.1:1/db?multiStatements=true",
		"host=127.0.0.1 port=s3cr password=" + secret, "host=127.0.0.1 password='" + secret, "password=s3cr host=127.0.0.1 sslmode=x",
		"me:" + secret + "@127.0.0.1:1/db", "me:" + secret + "@s3cr(127.0.0.1:1)/db", "me:" + secret, "me:" + secret + "@tcp(127.0.0.1:1",
		"postgres://me:" + url.PathEscape(secret) + "@127.0.0.1:1/db", "mysql://me:12@s3cr/p@ss@127.0.0.1:1/db",
		"jdbc:postgresql://me:" + secret + "@127.0.0.1:1/db", secret,
	} {
		_, err := New(Config{DSN: dsn, Query: query})
		check(t, dsn, err)
		if hintIn(err) == "" {
			t.Errorf("%s: %v has no hint", dsn, err)
		}
	}
	for _, dsn := range []string{
		"postgres://me:" + encoded(secret) + "@127.0.0.1:1/db", "mysql://me:" + encoded(secret) + "@127.0.0.1:1/db",
		"postgres://127.0.0.1:1/db?user=me&password=" + url.QueryEscape(secret),
		"host=127.0.0.1 port=1 user=me password='" + secret + "'", "me:" + secret + "@tcp(127.0.0.1:1)/db",
	} {
		s, err := New(Config{DSN: dsn, Query: query})
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		refused := s.Check(t.Context())
		check(t, dsn, refused)
		if hintIn(refused) != hintReach {
			t.Errorf("%s: got %v; hint: %s; want the hint %q", dsn, refused, hintIn(refused), hintReach)
		}
		check(t, "the source", fmt.Errorf("%v %+v %#v %s", s, s, s, s))
		cfg := Config{DSN: dsn, Query: query}
		check(t, "the configuration", fmt.Errorf("%v %+v %#v %s", cfg, cfg, cfg, cfg))
		_ = s.Close()
	}
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			_, err := checked(t, d.DSNAs("admin", encoded(secret)), query)
			check(t, d.Name, err)
			if hintIn(err) != hintLogin {
				t.Errorf("got %v; hint: %s; want the hint %q", err, hintIn(err), hintLogin)
			}
			t.Log(err)
		})
	}
}

// The driver gets the user and the password of every form of DSN, with and without
// escapes.
func TestSQL_DSNForms(t *testing.T) {
	t.Parallel()
	for _, d := range both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			const password = "a/b:c@d?e#f%41 ü"
			const name = "visitor"
			d.Exec(t, d.Pick("CREATE USER visitor PASSWORD '"+password+"'", "CREATE USER visitor@'%' IDENTIFIED BY '"+password+"'"))
			if d.Name == "MariaDB" {
				d.Exec(t, "GRANT SELECT ON test.* TO visitor@'%'")
			}
			t.Cleanup(func() { _, _ = d.Admin.ExecContext(context.Background(), "DROP USER visitor") })
			for _, dsn := range []string{
				d.DSNAs(name, encoded(password)),
				d.Pick(fmt.Sprintf("host=127.0.0.1 port=%d user=visitor password='%s' dbname=postgres", d.Port, password), "visitor:"+password+"@tcp("+d.Addr()+")/test"),
				d.Pick("postgresql", "mariadb") + strings.TrimPrefix(d.DSN(), d.Scheme),
			} {
				if _, err := checked(t, dsn, "SELECT 'u1' AS user_id, 'l1' AS lock_id, NOW() AS expires_at"); err != nil {
					t.Errorf("%s: %v", dsn, err)
				}
			}
		})
	}
}

func TestNew_InvalidConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"no DSN":   {Query: "SELECT 1"},
		"no query": {DSN: "postgres://127.0.0.1/db", Query: " ;\n"},
		"timeout":  {DSN: "postgres://127.0.0.1/db", Query: "SELECT 1", Timeout: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if got, want := fmt.Sprint(Config{Query: "SELECT 1", Timeout: time.Second}), `{Query:"SELECT 1" Timeout:1s Location:UTC}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
