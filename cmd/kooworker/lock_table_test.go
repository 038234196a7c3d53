package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
	"github.com/kooworker/kooworker/worker/locks/source/sourcetest"
)

// lockTable is a table of locks, with a Redis and a KooDrive of its own. KooDrive
// holds all of the locks.
type lockTable struct {
	*sourcetest.Server

	table string
	redis *redistest.Server
	sim   *simulator.Simulator
	url   string
}

// tables numbers the tables, so that each has a name of its own.
var tables atomic.Int64

// newLockTable makes a table of n locks without an index. The first ones, as many as
// stale says, expired long ago.
func newLockTable(t *testing.T, d *sourcetest.Server, n, stale int) *lockTable {
	t.Helper()
	l := &lockTable{Server: d, table: fmt.Sprintf("locks%d", tables.Add(1)), redis: redistest.Start(t)}
	l.sim, l.url = startSimulator(t)
	d.Table(t, l.table)
	d.Exec(t, fmt.Sprintf("INSERT INTO "+l.table+" SELECT CONCAT('user-', i), CONCAT('lock-', i, '@102'), CASE WHEN i < %d THEN "+longAgo(d)+" ELSE "+fromNow(d, time.Hour)+" END FROM "+
		d.Pick("generate_series(0, %d) i", "(SELECT seq AS i FROM seq_0_to_%d) s"), stale, n-1))
	for i := range n {
		l.sim.AddLock(userOf(i), lockOf(i), time.Now().Add(24*time.Hour))
	}
	return l
}

func userOf(i int) string { return fmt.Sprintf("user-%d", i) }
func lockOf(i int) string { return fmt.Sprintf("lock-%d@102", i) }

// longAgo is a fixed time in the past, as SQL.
func longAgo(d *sourcetest.Server) string {
	return d.Pick("timestamptz '2020-01-31 08:30:00Z'", "TIMESTAMP '2020-01-31 08:30:00'")
}

// fromNow is a time relative to now, as SQL.
func fromNow(d *sourcetest.Server, by time.Duration) string {
	return d.Pick(fmt.Sprintf("now() + %g * interval '1 second'", by.Seconds()), fmt.Sprintf("TIMESTAMPADD(SECOND, %d, NOW())", int(by.Seconds())))
}

// set sets the expiry of a lock, as SQL.
func (l *lockTable) set(t *testing.T, i int, expiresAt string) {
	t.Helper()
	l.Exec(t, fmt.Sprintf("UPDATE %s SET expires_at = %s WHERE user_id = '%s'", l.table, expiresAt, userOf(i)))
}

func (l *lockTable) query() string { return "SELECT user_id, lock_id, expires_at FROM " + l.table }

// flags returns the flags that name the table as a source.
func (l *lockTable) flags() []string { return flagsOf(l.DSN(), l.query()) }

func flagsOf(dsn, query string) []string {
	return []string{"--source-dsn", dsn, "--source-query", query}
}

// worker starts a worker that knows the source.
func (l *lockTable) worker(t *testing.T, args ...string) *process {
	t.Helper()
	return startWorker(t, l.redis, l.url, append(l.flags(), args...)...)
}

func (l *lockTable) sweep(t *testing.T) result {
	t.Helper()
	return l.sweepOf(t, l.flags())
}

func (l *lockTable) sweepOf(t *testing.T, source []string, args ...string) result {
	t.Helper()
	r := kooworker(t, "", append(append([]string{"locks", "sweep", "--max-share", "1", "--json", "--redis-url", l.redis.URL()}, source...), args...)...)
	checkNoPassword(t, r.stdout+r.stderr)
	return r
}

// wait waits for the batch of a sweep and returns its counts.
func (l *lockTable) wait(t *testing.T, sweep result) map[string]float64 {
	t.Helper()
	id, _ := sweep.object(t)["batch"].(string)
	if r := kooworker(t, "", "batch", "wait", id, "--timeout", "10m", "--redis-url", l.redis.URL()); r.code != exitDone {
		t.Fatalf("%+v after %+v; want exit 0", r, sweep)
	}
	return counts(show(t, l.redis, id))
}

// enqueued returns how many releases are outstanding.
func (l *lockTable) enqueued(t *testing.T) int {
	t.Helper()
	return len(l.tasks(t, tasks.QueueRelease))
}

// tasks returns the outstanding tasks of a queue, in all of its lanes. A task that moves meanwhile may be
// missing or appear twice.
func (l *lockTable) tasks(t *testing.T, queue string) (all []*asynq.TaskInfo) {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(l.redis.Client())
	for _, lane := range lanesOf(t, inspector, queue) {
		for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
			inspector.ListPendingTasks, inspector.ListActiveTasks, inspector.ListRetryTasks, inspector.ListScheduledTasks, inspector.ListArchivedTasks,
		} {
			some, err := list(lane, asynq.PageSize(100_000))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, some...)
		}
	}
	return all
}

// runRetriesNow lets releases that wait for a retry run at once, as asynqmon's button does.
func (l *lockTable) runRetriesNow(t *testing.T) {
	t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(l.redis.Client())
	for _, lane := range lanesOf(t, inspector, tasks.QueueRelease) {
		if _, err := inspector.RunAllRetryTasks(lane); err != nil {
			t.Fatal(err)
		}
	}
}

// checkReleased checks that KooDrive has released the stale locks and no other.
func (l *lockTable) checkReleased(t *testing.T, n, stale int) {
	t.Helper()
	wrong := 0
	for i := range n {
		if held := len(l.sim.Locks(userOf(i))) == 1; held != (i >= stale) {
			wrong++
		}
	}
	if released := l.sim.Stats().Released; wrong > 0 || released != stale {
		t.Errorf("%d locks are in the wrong state, and %d were released; want 0, and %d", wrong, released, stale)
	}
}

func checkNoPassword(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, sourcetest.Password) {
		t.Errorf("the password is shown; want it hidden: %s", text)
	}
}

// eachDatabase runs a test with PostgreSQL and with MySQL.
func eachDatabase(t *testing.T, test func(t *testing.T, d *sourcetest.Server)) {
	t.Helper()
	for _, d := range sourcetest.Both(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}
