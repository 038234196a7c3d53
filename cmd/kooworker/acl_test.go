package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// usersFile holds the users that deploy/ offers for a Redis.
const usersFile = "../../deploy/redis-users.acl"

// The users of that file.
const (
	workerUser   = "kooworker"
	producerUser = "kooworker-producer"
)

// guarded is a Redis with the users of deploy/redis-users.acl.
type guarded struct {
	t      *testing.T
	server *redistest.Server
	admin  *redis.Client
}

// startGuarded gives the users of the file a password, as an operator does, and adds an
// administrator. Nobody else may do more than PING, by which redistest sees that the
// server has started.
func startGuarded(t *testing.T) *guarded {
	t.Helper()
	text, err := os.ReadFile(usersFile)
	if err != nil {
		t.Fatal(err)
	}
	var users strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "user default off" {
			line = "user default on nopass resetchannels -@all +ping"
		} else {
			line += " >pass"
		}
		fmt.Fprintln(&users, line)
	}
	fmt.Fprintln(&users, "user admin on >pass ~* &* +@all")
	path := filepath.Join(t.TempDir(), "users.acl")
	if err := os.WriteFile(path, []byte(users.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	server := redistest.Start(t, "--aclfile", path, "--acllog-max-len", "1000", "--appendonly", "yes")
	g := &guarded{t: t, server: server}
	g.admin = g.client("admin")
	return g
}

func (g *guarded) url(user string) string {
	return "redis://" + user + ":pass@" + g.server.Addr() + "/0"
}

func (g *guarded) client(user string) *redis.Client {
	options := g.server.Options()
	options.Username, options.Password = user, "pass"
	client := redis.NewClient(options)
	g.t.Cleanup(func() { _ = client.Close() })
	return client
}

// worker starts a worker as the user of workers.
func (g *guarded) worker(koodrive string, args ...string) *process {
	g.t.Helper()
	args = append([]string{
		"worker", "--redis-url", g.url(workerUser), "--koodrive-url", koodrive, "--concurrency", "8",
		"--backoff-first", "1s", "--max-attempts", "2",
	}, args...)
	p := startProcess(g.t, []string{"KOODRIVE_TOKEN=t0ken"}, args...)
	redistest.Eventually(g.t, 30*time.Second, "the worker runs", func() bool { return strings.Contains(p.log(), "worker is running") })
	return p
}

// as runs a command line as a user, and wants one of these exit codes.
func (g *guarded) as(user, stdin string, codes []int, args ...string) result {
	g.t.Helper()
	r := kooworker(g.t, stdin, append(args, "--redis-url", g.url(user))...)
	if !slices.Contains(codes, r.code) || strings.Contains(r.stderr, "NOPERM") {
		g.t.Errorf("%s, %v: %+v; want exit code %v", user, args, r, codes)
	}
	return r
}

// commands returns the commands that were carried out since they were last asked for,
// without those of the administrator.
func (g *guarded) commands() map[string]bool {
	g.t.Helper()
	stats, err := g.admin.Info(g.t.Context(), "commandstats").Result()
	if err != nil {
		g.t.Fatal(err)
	}
	used := map[string]bool{}
	for line := range strings.Lines(stats) {
		name, counts, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "cmdstat_"), ":")
		if strings.HasPrefix(counts, "calls=") && !strings.HasPrefix(counts, "calls=0,") {
			used[name] = true
		}
	}
	if err := g.admin.ConfigResetStat(g.t.Context()).Err(); err != nil {
		g.t.Fatal(err)
	}
	return used
}

var (
	done    = []int{exitDone}
	partial = []int{exitPartial}
)

// produce does as the producer what a producer may do.
func (g *guarded) produce() {
	g.t.Helper()
	do := func(stdin string, codes []int, args ...string) {
		g.t.Helper()
		g.as(producerUser, stdin, codes, args...)
	}

	unbind := []string{"enqueue", "unbind", "--user-id", "u", "--device-id"}
	do("", done, append(unbind, "single-1", "--min-replicas", "1")...)
	do("", done, append(unbind, "single-1")...) // is queued already
	do("", done, append(unbind, "later-1", "--in", "1h")...)
	do("", done, append(unbind, "later-1", "--urgent")...)
	do("", done, append(unbind, "dead-1", "--urgent")...)
	do("", done, append(unbind, "dead-2")...)
	do("", done, append(unbind, "retry-1")...)
	do("", done, "enqueue", "release", "--user-id", "u", "--lock-id", "lock-1@102")
	do("", done, "enqueue", "offboard", "--user-id", "leaver-1")

	csv := unbindsCSV(600)
	do(csv, done, "enqueue", "unbind", "--file", "-")
	do(csv, done, "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--min-replicas", "1")
	do(csv, done, "enqueue", "unbind", "--file", "-", "--batch", "b-1") // resumes it
	do(csv+"user-0,device-0\nu,not valid\n", partial, "enqueue", "unbind", "--file", "-", "--batch", "b-2")
	do("user_id,device_id\nu,dead-3\nu,d-1\n", done, "enqueue", "unbind", "--file", "-", "--batch", "b-3")
	do("user_id,device_id\nu,d-2\n", done, "enqueue", "unbind", "--file", "-", "--batch", "b-4", "--in", "1h")
	do("user_id\nleaver-2\n", done, "enqueue", "offboard", "--file", "-", "--batch", "leavers")
	do(`{"user_id":"u","device_id":"follow-1"}`+"\n", done, "enqueue", "unbind", "--file", "-", "--follow")

	do("", done, "locks", "track", "--user-id", "u", "--lock-id", "held-1@102", "--expires-in", "1h")
	do("", done, "locks", "track", "--user-id", "leaver-1", "--lock-id", "left-1@102", "--expires-in", "1h")
	do("", done, "locks", "track", "--user-id", "u", "--lock-id", "stale-1@102", "--expires-in", "1s")
	do("", done, "locks", "track", "--user-id", "u", "--lock-id", "other-1@102", "--expires-in", "1h")
	do("user_id,lock_id\nu,held-1@102\n", done, "locks", "renew", "--file", "-", "--expires-in", "2h")
	do("", done, "locks", "forget", "--user-id", "u", "--lock-id", "other-1@102")
}

// damage leaves in the queue what workers repair: tasks that are in none of asynq's sets,
// that are archived, that nobody can decode, and that were in flight at a worker which
// died long ago.
func (g *guarded) damage() {
	g.t.Helper()
	ctx := g.t.Context()
	ids := map[string]string{}
	for _, device := range []string{"orphan-1", "archived-1", "lost-1"} {
		r := g.as(producerUser, "", done, "enqueue", "unbind", "--user-id", "u", "--device-id", device, "--urgent", "--json")
		ids[device], _ = r.object(g.t)["id"].(string)
	}
	queue := tasks.LaneUrgent.Of(tasks.QueueUnbind)
	for _, device := range []string{"orphan-1", "lost-1"} {
		if n := g.admin.LRem(ctx, asynqx.PendingKey(queue), 1, ids[device]).Val(); n != 1 {
			g.t.Fatalf("%s is not in %s; want it there", ids[device], asynqx.PendingKey(queue))
		}
	}
	if err := asynq.NewInspectorFromRedisClient(g.admin).ArchiveTask(queue, ids["archived-1"]); err != nil {
		g.t.Fatal(err)
	}
	g.admin.HSet(ctx, asynqx.TaskKey(queue, "unreadable"), "msg", "no message", "state", "active")
	expired := float64(time.Now().Add(-time.Hour).Unix())
	for _, id := range []string{"unreadable", ids["lost-1"]} {
		g.admin.LPush(ctx, asynqx.ActiveKey(queue), id)
		g.admin.ZAdd(ctx, asynqx.LeaseKey(queue), redis.Z{Score: expired, Member: id})
	}
	g.admin.HSet(ctx, asynqx.TaskKey(queue, ids["lost-1"]), "state", "active")
}

// operate does as the worker's user what an operator may do, while workers run.
func (g *guarded) operate(url string) {
	g.t.Helper()
	do := func(codes []int, args ...string) result { g.t.Helper(); return g.as(workerUser, "", codes, args...) }
	either := []int{exitDone, exitPartial}

	do(done, "queue", "pause", "unbind", "--reason", "a test", "--for", "1h")
	do(done, "queue", "list")
	do(done, "queue", "resume", "unbind")
	do(done, "cancel", "--user-id", "u", "--dry-run")
	do(done, "batch", "hold", "b-3", "--reason", "a test")
	do(done, "batch", "release", "b-3")

	worker := g.worker(url, "--with-scheduler", "--sweep-every", "1s", "--max-share", "1", "--grace", "1s")
	for _, id := range []string{"b-1", "b-2", "b-3", "leavers"} {
		do(either, "batch", "wait", id, "--timeout", "5m")
		do(done, "batch", "audit", id)
		do(done, "batch", "receipts", id)
		do(done, "batch", "show", id)
	}
	do(either, "status", "--json")
	do(done, "batch", "watch", "b-1")
	do(done, "batch", "cancel", "b-4", "--reason", "a test")
	do(done, "batch", "list")
	do(done, "cancel", "--device-id", "later-1")

	var last string
	defer func() {
		if g.t.Failed() {
			g.t.Log(last)
		}
	}()
	redistest.Eventually(g.t, 30*time.Second, "what is forbidden, archived or cannot be decoded is dead, and all else is repaired", func() bool {
		last = do(done, "dead", "list", "--json").stdout + do(done, "history", "--user-id", "u", "--json").stdout
		for _, target := range []string{"dead-1", "dead-2", "dead-3", "orphan-1", "archived-1", "lost-1", "unreadable"} {
			if !strings.Contains(last, target) {
				return false
			}
		}
		return true
	})
	do(done, "dead", "stats")
	do(done, "dead", "export")
	do(done, "dead", "stats", "--batch", "b-3")
	do(partial, "dead", "replay", "--batch", "b-3", "--canary", "1")
	do(done, "dead", "replay", "--id", "device:unbind:u:dead-1")
	do(done, "dead", "discard", "--id", "device:unbind:u:dead-2", "--yes")

	redistest.Eventually(g.t, time.Minute, "the stale lock is released", func() bool {
		return len(do(done, "locks", "list", "--json").lines(g.t)) == 1
	})
	do(done, "locks", "sweep", "--max-share", "1", "--json")
	do(done, "locks", "list", "--stale")
	do(done, "history", "--user-id", "u")
	do(done, "history", "forget", "--user-id", "user-1")
	do(done, "history", "forget", "--user-id", "leaver-1")
	g.browse()
	do(done, "batch", "delete", "b-1")
	worker.end(g.t, syscall.SIGTERM)
}

// crash kills a worker with a task in flight; another worker runs it again.
func (g *guarded) crash() {
	g.t.Helper()
	api := newFakeAPI(g.t, time.Hour)
	victim := g.worker(api.URL)
	g.as(producerUser, "", done, "enqueue", "unbind", "--user-id", "u", "--device-id", "crash-1", "--urgent")
	redistest.Eventually(g.t, time.Minute, "the task is in flight", func() bool { return len(api.targetsInFlight()) > 0 })
	victim.end(g.t, syscall.SIGKILL)
	api.delay.Store(0)
	heir := g.worker(api.URL)
	redistest.Eventually(g.t, 2*time.Minute, "the task runs again", func() bool { n, _ := api.executed(); return n > 0 })
	heir.end(g.t, syscall.SIGTERM)
}

// TestRedisUsers does all that producers, workers and operators do as the users of
// deploy/redis-users.acl. Redis must refuse nothing of it, and each command that a user
// may use must have been used.
func TestRedisUsers(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	host, port, _ := strings.Cut(g.server.Addr(), ":")
	replica := redistest.Start(t, "--replicaof", host+" "+port, "--masteruser", "admin", "--masterauth", "pass").Client()
	redistest.Eventually(t, time.Minute, "the replica is in step", func() bool {
		return strings.Contains(replica.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	sim, url := startSimulator(t,
		"forbidden,call=unbind,target=dead-1", "forbidden,call=unbind,target=dead-2", "forbidden,call=unbind,target=dead-3",
		"upstream-500,call=unbind,target=retry-1,times=1")
	for _, user := range []string{"leaver-1", "leaver-2"} {
		sim.Bind(user, simulator.Device{DeviceID: user + "-device"})
	}

	g.commands() // those of the start do not count
	g.produce()
	produced := g.commands()
	g.damage()
	g.commands() // nor do those of the damage
	g.operate(url)
	g.crash()
	worked := g.commands()

	refused, err := g.admin.ACLLog(t.Context(), 0).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range refused {
		t.Errorf("Redis refused %s: %s %s (%s); want nothing to be refused", entry.Username, entry.Reason, entry.Object, entry.Context)
	}
	g.wantUsed(producerUser, produced)
	for name := range produced { // an operator enqueues as well
		worked[name] = true
	}
	g.wantUsed(workerUser, worked)
}

// wantUsed compares what the file lets a user do with what was done. Redis itself would
// list the commands in categories.
func (g *guarded) wantUsed(user string, used map[string]bool) {
	g.t.Helper()
	text, err := os.ReadFile(usersFile)
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		rules := strings.Fields(line)
		if rules[1] != user {
			continue
		}
		from := slices.Index(rules, "-@all")
		if from < 0 || len(rules) < from+10 {
			g.t.Fatalf("%v; want -@all, and then single commands", rules)
		}
		for _, rule := range rules[from+1:] {
			name, ok := strings.CutPrefix(rule, "+")
			switch {
			case !ok || strings.HasPrefix(name, "@"):
				g.t.Errorf("%s has the rule %s; want single commands", user, rule)
			case !used[name] && name != "ping": // every client may ask whether Redis answers
				g.t.Errorf("%s may use %s and has not; take it away in %s, or let the test use it", user, name, usersFile)
			}
		}
		return
	}
	g.t.Errorf("%s has no user %s", usersFile, user)
}

// TestRedisUsers_Forbidden tries what neither user may do.
func TestRedisUsers_Forbidden(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	both := [][]any{
		{"FLUSHALL"}, {"FLUSHDB"}, {"KEYS", "*"}, {"CONFIG", "SET", "maxmemory", "1"}, {"SHUTDOWN"},
		{"ACL", "SETUSER", "x"}, {"CLIENT", "KILL", "TYPE", "normal"}, {"REPLICAOF", "NO", "ONE"}, {"MODULE", "LIST"}, {"MONITOR"},
		{"FUNCTION", "LIST"}, {"SCRIPT", "FLUSH"}, {"GET", "other"}, {"SET", "other", "1"}, {"PUBLISH", "other", "x"},
		{"EVAL", "return redis.call('FLUSHALL')", "0"}, {"EVAL", "return redis.call('GET', 'other')", "0"},
	}
	for user, more := range map[string][][]any{
		workerUser: {{"PUBLISH", "asynq:cancel", "x"}},
		producerUser: {
			{"SCAN", "0"}, {"CONFIG", "GET", "*"}, {"INFO"}, {"LRANGE", "asynq:{unbind}:pending", "0", "1"}, {"SUBSCRIBE", "asynq:cancel"},
			{"HGETALL", "kooworker:{batch:b}:meta"}, {"GET", "{kooworker:fleet}:quota"}, {"GET", "asynq:servers"},
			{"GET", "kooworker:{history:2026-11-27}:users"},
		},
	} {
		client := g.client(user)
		for _, command := range slices.Concat(both, more) {
			if err := client.Do(t.Context(), command...).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") && !strings.Contains(err.Error(), "The user executing the script can't") {
				t.Errorf("%s: %v: %v; want NOPERM", user, command, err)
			}
		}
	}
	file, err := os.ReadFile(usersFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(string(file), "><#") || strings.Contains(string(file), "nopass") {
		t.Errorf("%s holds a password; want none, so that nobody runs with one that everybody knows", usersFile)
	}
}
