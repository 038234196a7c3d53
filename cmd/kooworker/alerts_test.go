package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// faultyFleets are fleets of real processes, each with faults of its own. One Prometheus
// watches all of them, and knows a fleet by its namespace.
type faultyFleets struct {
	t       *testing.T
	prom    *prometheusServer
	wants   map[string][]string // the alerts that must fire, by fleet
	allowed map[string][]string // those that may fire as well
	fired   map[string]map[string]alert
	react   []func() // each is called now and then, while the alerts are awaited
}

// TestAlerts_FiredByTheirFaults causes the fault of each alert, and waits until Prometheus
// says that it fires. No other alert may fire.
func TestAlerts_FiredByTheirFaults(t *testing.T) {
	t.Parallel()
	f := &faultyFleets{t: t, prom: startPrometheus(t), wants: map[string][]string{}, allowed: map[string][]string{}, fired: map[string]map[string]alert{}}
	f.taskKillsWorkers() // takes the longest
	f.allIsWell()
	f.standstill()
	f.kooDriveFails()
	f.credentialRefused()
	f.quotaUsedUp()
	f.oneUsersQuota()
	f.tasksDie()
	f.keysChanged()
	f.lettersRefused()
	f.redisDies()
	f.overviewDenied()
	f.awaitAlerts(8 * time.Minute)

	var all []string
	for fleet, names := range f.wants {
		all = append(all, names...)
		for name, a := range f.fired[fleet] {
			if !slices.Contains(names, name) && !slices.Contains(f.allowed[fleet], name) {
				t.Errorf("%s fires in fleet %s, where nothing is wrong with that: %v", name, fleet, a)
			}
			text := a.Annotations["summary"] + a.Annotations["description"]
			if strings.Contains(text, "<no value>") || strings.Contains(text, "error") && strings.Contains(text, "template") || strings.Contains(text, "{{") {
				t.Errorf("%s says %v; want no gaps in it", name, a.Annotations)
			}
		}
	}
	all = append(all, metricsMissing(t))
	slices.Sort(all)
	if got, want := slices.Compact(all), alertNames(t); !slices.Equal(got, want) {
		t.Errorf("the test fires %v\nand the rules have %v; want the same", got, want)
	}
	checkMetricsNamed(t, f.prom)
}

func alertNames(t *testing.T) (names []string) {
	t.Helper()
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return names
}

// awaitAlerts collects what fires until every fleet has the alerts that it should have.
func (f *faultyFleets) awaitAlerts(within time.Duration) {
	f.t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		for _, react := range f.react {
			react()
		}
		for _, a := range f.prom.alerts() {
			if fleet := a.Labels["namespace"]; a.State == "firing" {
				if f.fired[fleet] == nil {
					f.fired[fleet] = map[string]alert{}
				}
				f.fired[fleet][a.Labels["alertname"]] = a
			}
		}
		missing := ""
		for fleet, names := range f.wants {
			for _, name := range names {
				if _, ok := f.fired[fleet][name]; !ok {
					missing += fmt.Sprintf("\n%s in fleet %s, which has %v", name, fleet, slices.Sorted(maps.Keys(f.fired[fleet])))
				}
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("after %s these do not fire:%s", within, missing)
		}
	}
}

// persistent starts a Redis that is fit for a queue.
func (f *faultyFleets) persistent() *redistest.Server {
	f.t.Helper()
	return redistest.Start(f.t, "--appendonly", "yes")
}

func (f *faultyFleets) worker(fleet string, server *redistest.Server, url string, args ...string) *process {
	f.t.Helper()
	p := startWorker(f.t, server, url, append([]string{"--admin-addr", "127.0.0.1:0", "--log-format", "json"}, args...)...)
	f.prom.scrape(fleet, p)
	return p
}

// scheduler serves the figures of all workers together, also while none runs.
func (f *faultyFleets) scheduler(fleet string, server *redistest.Server) *process {
	f.t.Helper()
	p := startProcess(f.t, nil, "scheduler", "--sweep-every", "1h", "--admin-addr", "127.0.0.1:0", "--log-format", "json", "--redis-url", server.URL())
	f.prom.scrape(fleet, p)
	return p
}

// run runs a command that must end with the code.
func (f *faultyFleets) run(code int, stdin string, server *redistest.Server, args ...string) {
	f.t.Helper()
	if r := kooworker(f.t, stdin, append(args, "--redis-url", server.URL())...); r.code != code {
		f.t.Fatalf("%v: %+v; want exit %d", args, r, code)
	}
}

func (f *faultyFleets) simulator(quota string, faults ...string) (url string) {
	f.t.Helper()
	cfg := simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, Token: "t0ken"}}
	for _, text := range faults {
		fault, err := simulator.ParseFault(text)
		if err != nil {
			f.t.Fatal(err)
		}
		cfg.Faults = append(cfg.Faults, fault)
	}
	if quota != "" {
		q, err := simulator.ParseQuota(quota)
		if err != nil {
			f.t.Fatal(err)
		}
		cfg.Quotas = []simulator.Quota{q}
	}
	_, url = serveSimulator(f.t, cfg)
	return url
}

// allIsWell is a fleet in which no alert fires.
func (f *faultyFleets) allIsWell() {
	server := f.persistent()
	url := f.simulator("")
	startWorker(f.t, server, url)
	f.run(exitDone, unbindsOfManyUsers(50), server, "enqueue", "unbind", "--file", "-", "--wait", "--due-by", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	f.run(exitDone, "", server, "locks", "sweep")
	f.worker("well", server, url)
	f.scheduler("well", server)
	f.wants["well"] = nil
}

// standstill is a fleet without workers, on a Redis that is not fit and almost full.
func (f *faultyFleets) standstill() {
	const fleet = "standstill"
	server := redistest.Start(f.t, "--maxmemory-policy", "volatile-ttl")
	rdb := server.Client()
	f.scheduler(fleet, server)
	f.run(exitDone, unbindsOfManyUsers(5), server, "enqueue", "unbind", "--file", "-", "--batch", "late", "--due-by", time.Now().Add(2*time.Second).UTC().Format(time.RFC3339))
	f.run(exitDone, "", server, "queue", "pause", "unbind", "--reason", "INC-1")
	f.run(exitDone, "", server, "enqueue", "release", "--user-id", "u-1", "--lock-id", "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102")
	id, err := rdb.LIndex(f.t.Context(), asynqx.PendingKey(tasks.QueueRelease), 0).Result()
	if err == nil { // it has been waiting for an hour
		err = rdb.HSet(f.t.Context(), asynqx.TaskKey(tasks.QueueRelease, id), "pending_since", time.Now().Add(-time.Hour).UnixNano()).Err()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	stale := "user_id,lock_id,expires_at\n"
	for i := range 20 {
		stale += fmt.Sprintf("u-%d,78e41c7e-db02-4d55-85b3-%012d@102,2026-01-01T00:00:00Z\n", i, i)
	}
	f.run(exitDone, stale, server, "locks", "track", "--file", "-")
	f.run(exitPartial, "", server, "locks", "sweep")
	source := filepath.Join(f.t.TempDir(), "locks.csv")
	if err := os.WriteFile(source, []byte("user_id,lock_id,expires_at\nu-1,78e41c7e-db02-4d55-85b3-8153e4fefd2e@102,tomorrow\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.run(exitPartial, "", server, "locks", "sweep", "--source-file", source)
	err = locks.NewStore(rdb).SetLastSweep(f.t.Context(), locks.Sweep{Source: tasks.SourceSQL, Began: time.Now().Add(-25 * time.Hour)})
	if err != nil {
		f.t.Fatal(err)
	}
	used, err := rdb.InfoMap(f.t.Context(), "memory").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	var bytes int64
	if _, err := fmt.Sscan(used["Memory"]["used_memory"], &bytes); err != nil {
		f.t.Fatal(err)
	}
	if err := rdb.ConfigSet(f.t.Context(), "maxmemory", fmt.Sprint(bytes+bytes/10)).Err(); err != nil {
		f.t.Fatal(err)
	}
	f.wants[fleet] = []string{
		"KooworkerNoWorkers", "KooworkerQueuePaused", "KooworkerOldestTaskTooOld", "KooworkerBatchLate",
		"KooworkerSweepHeldBack", "KooworkerSweepUnreadable", "KooworkerSweepsStopped", "KooworkerRedisUnfit", "KooworkerRedisMemoryNearLimit",
	}
}

// kooDriveFails is a fleet whose calls all fail.
func (f *faultyFleets) kooDriveFails() {
	server := f.persistent()
	f.worker("outage", server, f.simulator("", "upstream-500"))
	f.run(exitDone, unbindsOfManyUsers(200), server, "enqueue", "unbind", "--file", "-")
	f.wants["outage"] = []string{"KooworkerKooDriveDown", "KooworkerNoProgress"}
}

// credentialRefused is a fleet of two versions, whose credential KooDrive refuses.
func (f *faultyFleets) credentialRefused() {
	const fleet = "refused"
	server := f.persistent()
	url := f.simulator("", "unauthorized")
	f.worker(fleet, server, url)
	other := startProcess(f.t, []string{asVersion + "=v0.0.1", "KOODRIVE_TOKEN=t0ken"}, "worker", "--redis-url", server.URL(), "--koodrive-url", url, "--admin-addr", "127.0.0.1:0")
	f.prom.scrape(fleet, other)
	f.run(exitDone, unbindsOfManyUsers(200), server, "enqueue", "unbind", "--file", "-")
	f.wants[fleet], f.allowed[fleet] = []string{"KooworkerCallsRefused", "KooworkerVersionSkew"}, []string{"KooworkerNoProgress"}
}

func (f *faultyFleets) quotaUsedUp() {
	server := f.persistent()
	f.worker("quota", server, f.simulator("fixed:20/d"))
	f.run(exitDone, unbindsOfManyUsers(200), server, "enqueue", "unbind", "--file", "-")
	f.wants["quota"], f.allowed["quota"] = []string{"KooworkerQuotaUsedUp"}, []string{"KooworkerNoProgress"}
}

// oneUsersQuota refuses some users' calls at any rate, which no rate of all workers mends.
func (f *faultyFleets) oneUsersQuota() {
	server := f.persistent()
	f.worker("throttled", server, f.simulator("fixed:0/s,user=user-*7", "slow,delay=100ms"))
	f.run(exitDone, unbindsOfManyUsers(5000), server, "enqueue", "unbind", "--file", "-")
	f.wants["throttled"], f.allowed["throttled"] = []string{"KooworkerQuotaRefused"}, []string{"KooworkerNoProgress", "KooworkerQuotaUsedUp"}
}

func (f *faultyFleets) tasksDie() {
	server := f.persistent()
	f.worker("dead", server, f.simulator("", "forbidden,rate=0.5"))
	f.run(exitDone, unbindsOfManyUsers(200), server, "enqueue", "unbind", "--file", "-")
	f.wants["dead"], f.allowed["dead"] = []string{"KooworkerDeadShareHigh", "KooworkerDeadLettersGrow", "KooworkerDeadLettersLeft"}, []string{"KooworkerNoProgress"}
}

// schedule enqueues an unbind that runs in an hour, and returns its ID.
func (f *faultyFleets) schedule(server *redistest.Server, device string) (id string) {
	f.t.Helper()
	f.run(exitDone, "", server, "enqueue", "unbind", "--user-id", "u", "--device-id", device, "--in", "1h")
	return tasks.Identity(tasks.DeviceUnbind{UserID: "u", DeviceID: device})
}

// keysChanged is a fleet in whose Redis somebody has changed keys.
func (f *faultyFleets) keysChanged() {
	const fleet, queue = "amiss", tasks.QueueUnbind
	server := f.persistent()
	rdb, ctx := server.Client(), f.t.Context()
	f.worker(fleet, server, f.simulator(""))
	orphan, archived, garbage := f.schedule(server, "orphan"), f.schedule(server, "archived"), f.schedule(server, "garbage")
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZRem(ctx, asynqx.ScheduledKey(queue), orphan)
		p.HSet(ctx, asynqx.TaskKey(queue, garbage), asynqx.FieldMsg, "no message of asynq's")
		p.ZRem(ctx, asynqx.ScheduledKey(queue), garbage)
		p.ZAdd(ctx, asynqx.ScheduledKey(queue), redis.Z{Score: float64(time.Now().Add(time.Hour).Unix()), Member: "device:unbind:u:lost"})
		return nil
	})
	if err == nil {
		err = asynq.NewInspectorFromRedisClient(rdb).ArchiveTask(queue, archived)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.wants[fleet] = []string{"KooworkerTasksOrphaned", "KooworkerTasksArchived", "KooworkerTasksQuarantined", "KooworkerTasksLost"}
	f.allowed[fleet] = []string{"KooworkerDeadLettersGrow", "KooworkerDeadLettersLeft"}
}

// lettersRefused is a fleet that cannot store a dead letter: another key has its place.
func (f *faultyFleets) lettersRefused() {
	const fleet = "unparkable"
	server := f.persistent()
	rdb := server.Client()
	f.worker(fleet, server, f.simulator(""))
	id := f.schedule(server, "archived")
	err := rdb.Set(f.t.Context(), asynqx.TaskKey(tasks.QueueDeadLetter, id), "no hash", 0).Err()
	if err == nil {
		err = asynq.NewInspectorFromRedisClient(rdb).ArchiveTask(tasks.QueueUnbind, id)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.wants[fleet] = []string{"KooworkerRepairFails"}
}

// taskKillsWorkers is a fleet with a task that kills its worker. The first time it takes
// others with it.
func (f *faultyFleets) taskKillsWorkers() {
	const fleet, others = "crash", 2
	const life = 3 * time.Second // Prometheus must see what a worker has repaired before its death
	server := f.persistent()
	var inFlight atomic.Int32
	kills := make(chan struct{}, 10)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isPoison := strings.HasSuffix(r.URL.Path, "/poison")
		if n := inFlight.Add(1); n > others && isPoison || n == others+1 {
			time.AfterFunc(life, func() { kills <- struct{}{} })
		}
		if isPoison || inFlight.Load() <= others+1 {
			<-r.Context().Done() // its worker is dead
			return
		}
		_, _ = w.Write([]byte(`{"code":0,"msg":"success"}`))
	}))
	f.t.Cleanup(api.Close)
	start := func() *process { return f.worker(fleet, server, api.URL, "--max-crashes", "1") }
	running := start()
	f.run(exitDone, "user_id,device_id\nu-1,d-1\nu-2,d-2\nu-3,poison\n", server, "enqueue", "unbind", "--file", "-")
	f.react = append(f.react, func() {
		select {
		case <-kills:
			_ = running.end(f.t, syscall.SIGKILL)
			running = start()
		default:
		}
	})
	f.wants[fleet] = []string{"KooworkerWorkerDied", "KooworkerTaskKillsWorkers"}
	f.allowed[fleet] = []string{"KooworkerNoWorkers", "KooworkerNoProgress", "KooworkerDeadLettersGrow", "KooworkerDeadLettersLeft", "KooworkerDeadShareHigh", "KooworkerKooDriveDown"}
}

func (f *faultyFleets) redisDies() {
	server := f.persistent()
	f.scheduler("redis", server)
	server.Kill()
	f.wants["redis"] = []string{"KooworkerRedisDown"}
}

// overviewDenied is a fleet whose Redis user may not run a command.
func (f *faultyFleets) overviewDenied() {
	server := f.persistent()
	if err := server.Client().Do(f.t.Context(), "ACL", "SETUSER", "default", "-time").Err(); err != nil {
		f.t.Fatal(err)
	}
	f.scheduler("denied", server)
	f.wants["denied"] = []string{"KooworkerOverviewStale"}
}

// metricsMissing fires the alert that fires if no process of any fleet is scraped.
func metricsMissing(t *testing.T) (name string) {
	t.Helper()
	f := &faultyFleets{t: t, prom: startPrometheus(t), wants: map[string][]string{"": {"KooworkerMetricsMissing"}}, fired: map[string]map[string]alert{}}
	p := f.scheduler("gone", redistest.Start(t))
	f.prom.await("kooworker_build_info")
	_ = p.end(t, syscall.SIGKILL)
	f.awaitAlerts(2 * time.Minute)
	return f.wants[""][0]
}
