package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks/source/sourcetest"
)

// These are short forms of the tests of `make chaos`. There, databases are killed
// that other tests use as well.

func TestSource_DatabaseIsSwept(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) { t.Helper(); testDatabaseSweep(t, d, 1000, "") })
}

// testDatabaseSweep sweeps n locks, of which 40 % are stale.
func testDatabaseSweep(t *testing.T, d *sourcetest.Server, n int, index string) {
	t.Helper()
	stale := n * 2 / 5
	l := newLockTable(t, d, n, stale)
	if index != "" {
		d.Exec(t, "CREATE INDEX i"+l.table+" ON "+l.table+" ("+index+")")
	}
	worker := l.worker(t, "--concurrency", "64")
	sweep := func(args ...string) result {
		t.Helper()
		return kooworker(t, "", append(append([]string{"locks", "sweep", "--redis-url", l.redis.URL()}, l.flags()...), args...)...)
	}
	if r := sweep("--json"); r.code != exitPartial || r.object(t)["stale"] != float64(stale) || r.object(t)["held_back"] != float64(stale) || !strings.Contains(r.stderr, "in the database?") {
		t.Errorf("more than the default share: %+v; want exit 3, and %d held back", r, stale)
	}
	dry := sweep("--max-share", "0.5", "--dry-run", "--json").object(t)
	if r := sweep("--max-share", "0.5", "--dry-run"); strings.Count(r.stdout, "@102\n") != stale {
		t.Errorf("a dry run lists %d locks; want %d", strings.Count(r.stdout, "@102\n"), stale)
	}
	begin := time.Now()
	r := sweep("--max-share", "0.5", "--json")
	swept := time.Since(begin)
	wet := r.object(t)
	if r.code != exitDone || strings.Contains(r.stderr, "kooworker: ") || wet["source"] != "sql" || wet["total"] != float64(n) || wet["enqueued"] != float64(stale) || wet["batch"] == "" {
		t.Fatalf("%+v; want exit 0, and a batch of %d releases", r, stale)
	}
	for _, number := range []string{"source", "total", "stale", "enqueued", "held_back", "unreadable"} {
		if dry[number] != wet[number] {
			t.Errorf("%s is %v in a dry run; want %v", number, dry[number], wet[number])
		}
	}
	if diff := cmp.Diff(map[string]float64{"total": float64(stale), "succeeded": float64(stale)}, l.wait(t, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	t.Logf("%s, index on %q: %d of %d locks are swept within %.1f s, and released %.1f s later", d.Name, index, stale, n, swept.Seconds(), (time.Since(begin) - swept).Seconds())
	l.checkReleased(t, n, stale)
	again := sweep("--max-share", "0.5", "--json")
	if o := again.object(t); again.code != exitDone || o["total"] != float64(n-stale) || o["stale"] != 0.0 || o["enqueued"] != 0.0 || o["batch"] != "" {
		t.Errorf("again: %+v; want exit 0, stale 0, enqueued 0 and no batch", again)
	}
	checkNoPassword(t, worker.log())
}

// A lock that is renewed, deleted or made unreadable between a sweep and its releases
// stays. It is swept again when it is stale again.
func TestSource_ChangedRowsStay(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		const renewed, deleted, unreadable = 0, 1, 2
		l := newLockTable(t, d, 3, 3)
		first := l.sweep(t)
		if first.code != exitDone || first.object(t)["enqueued"] != 3.0 {
			t.Fatalf("%+v; want exit 0 and enqueued 3", first)
		}
		l.set(t, renewed, fromNow(d, time.Hour))
		l.set(t, unreadable, "NULL")
		d.Exec(t, "DELETE FROM "+l.table+" WHERE user_id = '"+userOf(deleted)+"'")
		l.worker(t)
		if diff := cmp.Diff(map[string]float64{"total": 3, "superseded": 3}, l.wait(t, first)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		r := l.sweep(t)
		if o := r.object(t); r.code != exitPartial || o["total"] != 1.0 || o["unreadable"] != 1.0 || o["enqueued"] != 0.0 || !strings.Contains(r.stderr, userOf(unreadable)+", lock "+lockOf(unreadable)+"): expires_at is NULL") {
			t.Errorf("%+v; want exit 3, total 1, unreadable 1 and enqueued 0", r)
		}
		if released := l.sim.Stats().Released; released != 0 {
			t.Fatalf("%d locks were released; want 0", released)
		}
		l.set(t, unreadable, longAgo(d)) // as it was
		l.set(t, renewed, fromNow(d, -10*time.Minute))
		r = l.sweep(t)
		if o := r.object(t); r.code != exitDone || o["enqueued"] != 2.0 {
			t.Fatalf("%+v; want exit 0 and enqueued 2", r)
		}
		if diff := cmp.Diff(map[string]float64{"total": 2, "succeeded": 2}, l.wait(t, r)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for i, want := range map[int]int{renewed: 0, deleted: 1, unreadable: 0} {
			if held := len(l.sim.Locks(userOf(i))); held != want {
				t.Errorf("KooDrive holds %d locks of %s; want %d", held, userOf(i), want)
			}
		}
	})
}

func TestSource_FailureEnqueuesNothing(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		l := newLockTable(t, d, 10, 5)
		where := d.Pick("PostgreSQL", "MySQL") + " at " + d.Addr()
		closed, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = closed.Close()
		const ids = "SELECT user_id, lock_id, "
		from := " FROM " + l.table
		for name, c := range map[string]struct {
			flags []string
			code  int
			want  string
		}{
			"no table":     {flagsOf(d.DSN(), ids+"expires_at FROM nowhere"), exitFailed, "nowhere"},
			"no column":    {flagsOf(d.DSN(), ids+"expires"+from), exitFailed, "expires"},
			"wrong column": {flagsOf(d.DSN(), ids+"expires_at AS expires"+from), exitFailed, `the query yields no column expires_at; it yields "user_id, lock_id, expires"`},
			"wrong type":   {flagsOf(d.DSN(), ids+"1769848200 AS expires_at"+from), exitFailed, "the query's expires_at is of the type"},
			"no query":     {flagsOf(d.DSN(), "DELETE"+from), exitFailed, "syntax"},
			"half-way": {flagsOf(d.DSN(), d.Pick(ids+"expires_at + (10 / (user_id <> 'user-7')::int) * interval '1 second' AS expires_at"+from,
				ids+"IF(user_id = 'user-7', (SELECT NOW() FROM seq_1_to_2), expires_at) AS expires_at"+from)), exitFailed, d.Pick("division by zero", "more than 1 row")},
			"password":       {flagsOf(d.DSNAs(d.User, "wr0ng-passw0rd"), l.query()), exitFailed, d.Pick("password authentication failed", "Access denied")},
			"no server":      {flagsOf(d.DSNAt(closed.Addr().String()), l.query()), exitFailed, "connection refused"},
			"no DSN":         {flagsOf(d.Scheme+"//admin:"+sourcetest.Password+"@"+d.Addr(), l.query()), exitUsage, "--source-dsn: "},
			"no query given": {[]string{"--source-dsn", d.DSN()}, exitUsage, "--source-query"},
			"a file as well": {append(l.flags(), "--source-file", os.DevNull), exitUsage, "--source-file"},
		} {
			for _, dry := range [][]string{nil, {"--dry-run"}} {
				r := l.sweepOf(t, c.flags, dry...)
				lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
				if r.code != c.code || r.stdout != "" || !strings.HasPrefix(lines[0], "kooworker: ") || !strings.Contains(lines[0], c.want) || len(lines) > 2 {
					t.Errorf("%s: %+v; want nothing on stdout and 'kooworker:'", name, r)
				}
				if c.code == exitFailed && (len(lines) != 2 || !strings.HasPrefix(lines[1], "hint: ") || !strings.Contains(lines[0], "nothing was enqueued: ") || !strings.Contains(lines[0], where) && name != "no server") {
					t.Errorf("%s: %s; want 'hint:' and 'nothing was enqueued:'", name, r.stderr)
				}
				if strings.Contains(r.stderr, "wr0ng") {
					t.Errorf("the password is shown; want it hidden: %s", r.stderr)
				}
			}
		}
		if keys := l.redis.Client().Keys(t.Context(), "*").Val(); len(keys) > 0 {
			t.Errorf("Redis has %v; want no key", keys)
		}
		if r := l.sweep(t); r.code != exitDone || r.object(t)["enqueued"] != 5.0 {
			t.Errorf("%+v; want exit 0 and enqueued 5", r)
		}
	})
}

// A scheduled sweep whose source fails is retried, and is dead in the end. Later
// sweeps run nevertheless.
func TestSource_ScheduledSweepFailsAndRecovers(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		l := newLockTable(t, d, 5, 5)
		d.Exec(t, "ALTER TABLE "+l.table+" RENAME TO away_"+l.table)
		worker := l.worker(t, "--with-scheduler", "--sweep-every", "1s", "--max-share", "1", "--attempts", "unlisted=2")
		redistest.Eventually(t, 30*time.Second, "a sweep is retried", func() bool {
			for _, task := range l.tasks(t, tasks.QueueSweep) {
				if task.Retried > 0 && strings.Contains(task.LastErr, l.table) {
					return true
				}
			}
			return false
		})
		var dead []map[string]any
		redistest.Eventually(t, 30*time.Second, "a sweep is dead", func() bool {
			dead = kooworker(t, "", "dead", "list", "--json", "--redis-url", l.redis.URL()).lines(t)
			return len(dead) > 0
		})
		text, _ := dead[0]["error"].(string)
		if dead[0]["kind"] != "lock:sweep" || dead[0]["reason"] != "unlisted" || dead[0]["attempts"] != 2.0 || !strings.Contains(text, l.table) {
			t.Errorf("%v; want kind lock:sweep, reason unlisted and attempts 2", dead[0])
		}
		checkNoPassword(t, text+worker.log())
		if !strings.Contains(worker.log(), `"reason":"unlisted"`) || !strings.Contains(worker.log(), "its sweeps and releases wait until it can") {
			t.Errorf("the log does not say so: %s; want 'reason\":\"unlisted', 'waits until this is put right' and 'wait until this is put right'", worker.log())
		}
		d.Exec(t, "ALTER TABLE away_"+l.table+" RENAME TO "+l.table)
		redistest.Eventually(t, 30*time.Second, "all locks are released", func() bool { return l.sim.Stats().Released == 5 })
	})
}

// testSourcesAtLength is for `make chaos`.
func testSourcesAtLength(t *testing.T, n int) {
	t.Helper()
	for _, d := range sourcetest.Both(t) {
		t.Run(d.Name, func(t *testing.T) {
			testHangDuringReleases(t, d)
			testDatabaseSweep(t, d, n, "")
			testDatabaseSweep(t, d, n, "user_id, lock_id")
			testKilledSweep(t, d, n, func(*lockTable) {})
			testBreakDuringSweep(t, d, n, d.Kill, func() { d.Restart(t) })
			testOutageDuringReleases(t, d, d.Addr(), n/10, 30*time.Second, d.Kill, func(*lockTable) { d.Restart(t) })
		})
	}
}

// A worker that knows the file releases its locks. One that does not leaves them alone.
func TestSource_FileIsSwept(t *testing.T) {
	t.Parallel()
	const n, stale = 20, 8
	for name, line := range map[string]func(user, lock, at string) string{
		"locks.csv": func(user, lock, at string) string { return user + "," + lock + "," + at },
		"locks.jsonl": func(user, lock, at string) string {
			return fmt.Sprintf(`{"user_id":%q,"lock_id":%q,"expires_at":%q}`, user, lock, at)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			l := &lockTable{redis: server}
			l.sim, l.url = startSimulator(t)
			var text strings.Builder
			if strings.HasSuffix(name, ".csv") {
				text.WriteString("user_id,lock_id,expires_at\n")
			}
			for i := range n {
				at := time.Now().Add(time.Hour)
				if i < stale {
					at = time.Now().Add(-time.Hour)
				}
				text.WriteString(line(userOf(i), lockOf(i), at.Format(time.RFC3339)) + "\n")
				l.sim.AddLock(userOf(i), lockOf(i), time.Now().Add(time.Hour))
			}
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			source := []string{"--source-file", file}
			without := startWorker(t, server, l.url)
			r := l.sweepOf(t, source)
			if o := r.object(t); r.code != exitDone || o["source"] != "file" || o["total"] != float64(n) || o["enqueued"] != float64(stale) ||
				!strings.Contains(r.stderr, "no running worker knows this source") {
				t.Errorf("%+v; want exit 0, %d releases and a warning", r, stale)
			}
			redistest.Eventually(t, 20*time.Second, "the worker logs that it does not know the source", func() bool {
				return strings.Contains(without.log(), "wait for a worker that knows their source")
			})
			redistest.Eventually(t, 20*time.Second, "all releases are put back", func() bool { return l.enqueued(t) == stale })
			if l.sim.Stats().Released != 0 {
				t.Errorf("%d locks were released; want 0", l.sim.Stats().Released)
			}
			for _, task := range l.tasks(t, tasks.QueueRelease) {
				if task.Retried > 0 {
					t.Errorf("%s is charged an attempt; want none: %s", task.ID, task.LastErr)
				}
			}
			without.end(t, syscall.SIGTERM)
			startWorker(t, server, l.url, source...)
			l.runRetriesNow(t)
			if diff := cmp.Diff(map[string]float64{"total": stale, "succeeded": stale}, l.wait(t, r)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			l.checkReleased(t, n, stale)
			if r := l.sweepOf(t, source); r.code != exitDone || strings.Contains(r.stderr, "kooworker: ") || r.object(t)["enqueued"] != 0.0 {
				t.Errorf("again: %+v; want exit 0, enqueued 0 and no 'kooworker: '", r)
			}
		})
	}
}

// The times of the table are local times without a zone. The sweep and the worker
// find the stale locks only if they are told the zone.
func TestSource_LocalTimeNeedsItsZone(t *testing.T) {
	t.Parallel()
	const name, n, stale = "America/New_York", 10, 3
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		l := newLockTable(t, d, n, 0)
		d.Exec(t, "ALTER TABLE "+l.table+" DROP COLUMN expires_at", "ALTER TABLE "+l.table+" ADD COLUMN expires_at "+d.Pick("timestamp", "DATETIME"))
		expire := func(i int, in time.Duration) {
			t.Helper()
			l.set(t, i, "'"+time.Now().Add(in).In(zone).Format(time.DateTime)+"'")
		}
		for i := range n {
			expire(i, time.Hour)
		}
		without, with := l.flags(), append(l.flags(), "--source-zone", name)
		if r := l.sweepOf(t, with); r.code != exitDone || r.object(t)["total"] != float64(n) || r.object(t)["stale"] != 0.0 {
			t.Errorf("with the zone: %+v; want exit 0, and none of %d locks stale", r, n)
		}
		wrong := l.sweepOf(t, without)
		if wrong.code != exitDone || wrong.object(t)["stale"] != float64(n) || wrong.object(t)["enqueued"] != float64(n) {
			t.Fatalf("without the zone: %+v; want exit 0, and all of %d locks stale", wrong, n)
		}
		// A worker that knows the zone releases none of them.
		startWorker(t, l.redis, l.url, with...)
		if diff := cmp.Diff(map[string]float64{"total": n, "superseded": n}, l.wait(t, wrong)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for i := range stale {
			expire(i, -time.Hour)
		}
		r := l.sweepOf(t, with)
		if o := r.object(t); r.code != exitDone || o["enqueued"] != float64(stale) {
			t.Fatalf("%+v; want exit 0, and %d releases", r, stale)
		}
		if diff := cmp.Diff(map[string]float64{"total": stale, "succeeded": stale}, l.wait(t, r)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		l.checkReleased(t, n, stale)
	})
}

func TestSource_HangingDatabaseTimesOut(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, d *sourcetest.Server) {
		t.Helper()
		l := newLockTable(t, d, 1, 1)
		p := startProxy(t, d.Addr())
		p.frozen.Lock()
		defer p.frozen.Unlock()
		begin := time.Now()
		r := l.sweepOf(t, flagsOf(d.DSNAt(p.addr()), l.query()), "--source-timeout", "1s")
		if took := time.Since(begin); r.code != exitFailed || !strings.Contains(r.stderr, "did not end within 1s") || took > 20*time.Second {
			t.Errorf("after %s: %+v; want exit 1 within 20s, and 'did not end within 1s'", took, r)
		}
	})
}

func TestSource_WrongFlags(t *testing.T) {
	t.Setenv("KOODRIVE_TOKEN", "t0ken")
	server := redistest.Start(t)
	file := filepath.Join(t.TempDir(), "locks.csv.gz")
	if err := os.WriteFile(file, []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x00\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	database := flagsOf("postgres://reader@127.0.0.1:1/backups", "SELECT 1")
	for _, command := range [][]string{{"locks", "sweep"}, {"worker", "--koodrive-url", "https://k.example"}} {
		for _, c := range []struct {
			flags []string
			want  string
		}{
			{append(database, "--source-zone", "Nowhere"), "--source-zone: unknown time zone Nowhere; want a name such as UTC or Europe/Berlin"},
			{append(database, "--source-timeout", "0s"), "--source-timeout: 0s; want more than 0"},
			{append(database, "--source-timeout=-1m"), "--source-timeout: -1m0s; want more than 0"},
			{[]string{"--source-file", file}, "--source-file: the locks' file: " + file + " is compressed with gzip; want plain text\nhint: unpack it"},
		} {
			args := append(append(append([]string{}, command...), "--redis-url", server.URL()), c.flags...)
			want := "kooworker: " + c.want
			if command[0] == "worker" { // whose errors are lines of its log
				problem, _, _ := strings.Cut(c.want, "\n")
				want = fmt.Sprintf(`"msg":%q,"exit_code":2`, problem)
			}
			if r := kooworker(t, "", args...); r.code != exitUsage || r.stdout != "" || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "\x8b") {
				t.Errorf("%v: %+v; want exit 2, nothing on stdout, %q and no '\x8b'", args, r, want)
			}
		}
	}
}
