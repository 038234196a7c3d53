package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker"
	"github.com/kooworker/kooworker/worker/deadletter"
)

func TestWorker_RequestsOnTheWire(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL+"/prefix")
	b.start()
	b.enqueue(tasks.DeviceUnbind{UserID: "u-1", DeviceID: "1775406005920779393"})
	b.enqueue(tasks.LockRelease{UserID: "u-2", LockID: "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"})
	b.awaitSettled()
	requests, _, _ := api.snapshot()
	if len(requests) != 2 {
		t.Fatalf("%d requests: %+v; want 2", len(requests), requests)
	}
	for _, r := range requests {
		want := http.Header{
			"Authorization": {"Bearer+" + testToken}, "User-Agent": {"kooworker"},
			"X-User-Id": {"u-1"}, "X-Date": r.header["X-Date"],
		}
		wantPath := "/prefix/koodrive/ose/v1/backup/device/1775406005920779393"
		if r.userID == "u-2" {
			wantPath = "/prefix/koodrive/ose/v1/backup/lock"
			want["X-User-Id"] = []string{"u-2"}
			want["X-Backup-Lock-Id"] = []string{"78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"}
		}
		if r.method != http.MethodDelete || r.path != wantPath {
			t.Errorf("%s %s; want DELETE %s", r.method, r.path, wantPath)
		}
		if diff := cmp.Diff(want, r.header); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
		at, err := time.Parse("20060102T150405Z", r.header.Get("X-Date"))
		if age := time.Since(at); err != nil || age < 0 || age > time.Minute {
			t.Errorf("X-Date %q is %s old, %v; want at most a minute", r.header.Get("X-Date"), age, err)
		}
	}
}

// mixed answers by the last digit of the target: 1 fails twice, 3 is gone, 5 is
// forbidden, 7 is throttled once, and the others are done.
func mixed(target string, nth int) reply {
	number := strings.TrimSuffix(target, "@102")
	switch number[len(number)-1] {
	case '1':
		if nth <= 2 {
			return trouble
		}
	case '3':
		return gone
	case '5':
		return forbidden
	case '7':
		if nth <= 1 {
			return throttled
		}
	}
	return done
}

func TestWorker_EachAnswerHasItsOutcome(t *testing.T) {
	t.Parallel()
	const n = 100
	api := newStandIn(t, mixed)
	b := setup(t, api.URL)
	b.start()
	for i := range n {
		b.enqueue(unbindTask(i))
		b.enqueue(releaseTask(i))
	}
	b.awaitSettled()

	_, deletes, seen := api.snapshot()
	dead := b.dead()
	for i := range n {
		for _, target := range []string{unbindTask(i).Target(), releaseTask(i).Target()} {
			wantSeen, wantDeletes, wantDead := 1, 1, false
			switch i % 10 {
			case 1:
				wantSeen = 3
			case 3:
				wantDeletes = 0
			case 5:
				wantDeletes, wantDead = 0, true
			case 7:
				wantSeen = 2
			}
			if seen[target] != wantSeen || deletes[target] != wantDeletes {
				t.Errorf("%s: called %d times, deleted %d times; want %d and %d", target, seen[target], deletes[target], wantSeen, wantDeletes)
			}
			l, isDead := dead[target]
			if isDead != wantDead || isDead && (l.Reason != tasks.Forbidden || l.Attempts != 1) {
				t.Errorf("%s: dead %t, %+v; want dead %t", target, isDead, l, wantDead)
			}
		}
	}
	for _, tc := range []struct {
		metric string
		labels map[string]string
		want   float64
	}{
		{"kooworker_tasks_finished_total", map[string]string{"outcome": "succeeded"}, 160},
		{"kooworker_tasks_finished_total", map[string]string{"outcome": "already_gone"}, 20},
		{"kooworker_tasks_finished_total", map[string]string{"outcome": "dead", "kind": "device:unbind"}, 10},
		{"kooworker_attempts_total", map[string]string{"reason": "throttled", "charged": "false"}, 20},
		{"kooworker_attempts_total", map[string]string{"reason": "throttled", "charged": "true"}, 0},
		{"kooworker_attempts_total", map[string]string{"reason": "upstream"}, 40},
	} {
		if got := b.metric(tc.metric, tc.labels); got != tc.want {
			t.Errorf("%s%v is %g; want %g", tc.metric, tc.labels, got, tc.want)
		}
	}

	api.setAnswer(always(done))
	if res, err := b.letters.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{}); err != nil || res.Done != 20 {
		t.Errorf("replay: %+v, %v; want 20 done", res, err)
	}
	redistest.Eventually(t, settleIn, "no dead letters", func() bool { return len(b.dead()) == 0 && b.outstanding() == 0 })
	if index := b.redis.Client().Keys(t.Context(), "kooworker:{dead-letter}:reason:*").Val(); len(index) != 0 {
		t.Errorf("%v are left; want no entry of a letter that is gone", index)
	}
	_, deletes, _ = api.snapshot()
	if deletes["device-5"] != 1 || deletes["lock-95@102"] != 1 {
		t.Errorf("after the replay: device-5 deleted %d times, lock-95 %d times; want once each", deletes["device-5"], deletes["lock-95@102"])
	}
}

func TestWorker_WaitsForRetryAfter(t *testing.T) {
	t.Parallel()
	var first time.Time
	waited := make(chan time.Duration, 1)
	api := newStandIn(t, func(_ string, nth int) reply {
		if nth == 1 {
			first = time.Now()
			return reply{429, map[string]string{"Retry-After": "2"}, ""}
		}
		waited <- time.Since(first)
		return done
	})
	b := setup(t, api.URL)
	b.start()
	b.enqueue(unbindTask(1))
	if d := <-waited; d < 2*time.Second || d > 8*time.Second {
		t.Errorf("called again after %s; want 2s to 8s", d)
	}
	b.awaitSettled()
}

// Both the gate and the policy wait after a throttled answer that names no time.
func TestWorker_ThrottleWaitIsThePolicys(t *testing.T) {
	t.Parallel()
	const wait = 10 * time.Second
	var first time.Time
	waited := make(chan time.Duration, 1)
	api := newStandIn(t, func(_ string, nth int) reply {
		if nth == 1 {
			first = time.Now()
			return reply{429, nil, ""}
		}
		waited <- time.Since(first)
		return done
	})
	b := setup(t, api.URL)
	b.cfg.Policy.ThrottleMin, b.cfg.Policy.ThrottleMax = wait, wait
	b.start()
	b.enqueue(unbindTask(1))
	if d := <-waited; d < wait {
		t.Errorf("called again after %s; want at least %s", d, wait)
	}
	b.awaitSettled()
}

func TestWorker_WrongBaseURLCompletesNothing(t *testing.T) {
	t.Parallel()
	const n = 30
	api := newStandIn(t, always(html404))
	b := setup(t, api.URL)
	b.start()
	for i := range n {
		b.enqueue(unbindTask(i))
	}
	redistest.Eventually(t, settleIn, "a few were tried, and then probes", func() bool {
		requests, _, _ := api.snapshot()
		return len(requests) >= 5 && b.metric("kooworker_gate_probes_total", nil) >= 2
	})
	if got := b.outstanding(); got != n {
		t.Errorf("%d tasks are outstanding; want all %d", got, n)
	}
	if dead := b.dead(); len(dead) != 0 {
		t.Errorf("dead letters %v; want none", dead)
	}
	if got := b.metric("kooworker_gate_open", map[string]string{"reason": "misrouted"}); got != 1 {
		t.Errorf("the metric of the open breaker is %g; want 1", got)
	}
	if log := b.logs.String(); !strings.Contains(log, `"reason":"misrouted"`) || !strings.Contains(log, `"hint":"the answer is not KooDrive's`) {
		t.Errorf("want the reason misrouted and its hint in the log:\n%.2000s", log)
	}
	infos, err := b.inspector.ListRetryTasks(tasks.QueueUnbind)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if info.Retried != 0 {
			t.Errorf("%s was charged %d attempts; want none", info.ID, info.Retried)
		}
	}
	api.setAnswer(always(done))
	b.awaitSettled()
	_, deletes, _ := api.snapshot()
	for i := range n {
		if target := unbindTask(i).Target(); deletes[target] != 1 {
			t.Errorf("%s was deleted %d times; want once", target, deletes[target])
		}
	}
}

// If no server is reached, the task is not charged, even if it is the only one.
func TestWorker_LoneTaskOutlivesAnOutage(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	url := api.URL
	api.Close()
	b := setup(t, url)
	b.cfg.Policy.MaxAttempts = 1
	b.start()
	b.enqueue(unbindTask(1))
	redistest.Eventually(t, settleIn, "it was tried three times", func() bool {
		return b.metric("kooworker_attempts_total", map[string]string{"reason": "network"}) >= 3
	})
	if n := b.metric("kooworker_attempts_total", map[string]string{"charged": "true"}); n != 0 || len(b.dead()) != 0 {
		t.Errorf("%g attempts charged, %d dead; want none", n, len(b.dead()))
	}
}

// Two tasks of plain clients have the same ID, one after the other. Both must be
// requeued: neither copy may take the place of the other.
func TestWorker_RequeuedCopiesHaveTheirOwnIDs(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, func(_ string, nth int) reply {
		if nth == 1 {
			return throttled
		}
		return done
	})
	b := setup(t, api.URL)
	b.start()
	for i := 1; i <= 2; i++ {
		b.enqueue(unbindTask(i), asynq.MaxRetry(0), asynq.TaskID("same"))
		redistest.Eventually(t, settleIn, "it was requeued", func() bool {
			_, err := b.inspector.GetTaskInfo(tasks.QueueUnbind, "same")
			return errors.Is(err, asynq.ErrTaskNotFound)
		})
	}
	b.awaitSettled()
	_, deletes, _ := api.snapshot()
	if deletes["device-1"] != 1 || deletes["device-2"] != 1 {
		t.Errorf("deleted %v; want each device once", deletes)
	}
}

// A plain asynq client set asynq's option Deadline, which passed before a worker
// took the task. asynq never calls the handler, and must not retry for ever.
func TestWorker_PassedAsynqDeadlineIsDead(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.enqueue(unbindTask(1), asynq.Deadline(time.Now().Add(-time.Minute)), asynq.MaxRetry(0))
	b.start()
	redistest.Eventually(t, settleIn, "it is a dead letter", func() bool {
		l, ok := b.dead()["device-1"]
		return ok && l.Reason == tasks.TimedOut
	})
	b.awaitSettled()
}

// Somebody puts bytes into the dead-letter queue by hand.
func TestWorker_UndecodableLetterStaysDead(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.start()
	if _, err := b.client.Enqueue(asynq.NewTask("what", []byte("ever")), asynq.Queue(tasks.QueueDeadLetter), asynq.MaxRetry(1)); err != nil {
		t.Fatal(err)
	}
	b.awaitSettled()
	f := deadletter.Filter{Reasons: []tasks.Reason{tasks.Undecodable}}
	for range 2 { // a replay changes nothing
		stats, err := b.letters.Stats(t.Context(), f)
		if err != nil || stats.Total != 1 {
			t.Fatalf("%+v, %v; want one undecodable letter", stats, err)
		}
		if _, err := b.letters.Replay(t.Context(), f, deadletter.Options{}); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, settleIn, "it is parked again", func() bool {
			stats, err := b.letters.Stats(t.Context(), f)
			return err == nil && stats.Total == 1 && b.outstanding() == 0
		})
	}
}

// A replay that fails is charged, and the letter's attempts include it.
func TestWorker_FailedReplaysAreCharged(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(forbidden))
	b := setup(t, api.URL)
	b.start()
	b.enqueue(unbindTask(1))
	b.awaitSettled()
	for want := 2; want <= 3; want++ {
		redistest.Eventually(t, settleIn, "it is replayed", func() bool { // not while it is arriving
			res, err := b.letters.Replay(t.Context(), deadletter.Filter{}, deadletter.Options{})
			if err != nil || res.Done+res.Skipped > 1 {
				t.Fatalf("%+v, %v; want at most one letter", res, err)
			}
			return res.Done == 1
		})
		redistest.Eventually(t, settleIn, "it is dead again", func() bool { return b.dead()["device-1"].Attempts == want })
	}
}

func TestWorker_UndecodablePayloadsKeepTheirBytes(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.start()
	for id, task := range map[string]*asynq.Task{
		"garbage": asynq.NewTask("device:unbind", []byte("\xff\x00 not JSON")),
		"prefix":  asynq.NewTask("device:unbindX", []byte(`{"v":1,"user_id":"u","device_id":"d"}`)),
	} {
		if _, err := b.client.Enqueue(task, asynq.Queue(tasks.QueueUnbind), asynq.TaskID(id)); err != nil {
			t.Fatal(err)
		}
	}
	b.awaitSettled()
	got := map[string]string{}
	for l, err := range b.letters.List(t.Context(), deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		got[l.ID] = fmt.Sprintf("%s %s %q", l.Reason, l.Kind, l.Payload)
	}
	want := map[string]string{
		"garbage": `undecodable device:unbind "\xff\x00 not JSON"`,
		"prefix":  `unknown_kind device:unbindX "{\"v\":1,\"user_id\":\"u\",\"device_id\":\"d\"}"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	if requests, _, _ := api.snapshot(); len(requests) != 0 {
		t.Errorf("requests %+v; want none", requests)
	}
}

// asynq archives a task at the retry limit that its producer set, whatever the
// handler returns, and deletes archived tasks in the end.
func TestWorker_TasksOfPlainClientsAreNeverArchived(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, func(target string, nth int) reply {
		if target == "device-1" && nth <= 2 {
			return throttled
		}
		if target == "device-2" {
			return trouble
		}
		return done
	})
	b := setup(t, api.URL)
	b.start()
	b.enqueue(unbindTask(1), asynq.MaxRetry(0))
	b.enqueue(unbindTask(2), asynq.MaxRetry(1))
	b.awaitSettled()
	_, deletes, seen := api.snapshot()
	if deletes["device-1"] != 1 || seen["device-1"] != 3 {
		t.Errorf("the throttled one was deleted %d times in %d calls; want 1 in 3", deletes["device-1"], seen["device-1"])
	}
	dead := b.dead()
	if l := dead["device-2"]; len(dead) != 1 || l.Reason != tasks.Upstream || l.Attempts != 2 {
		t.Errorf("dead: %+v; want device-2 after the 2 attempts that its producer allowed", dead)
	}
}

func TestRun_StopPutsBackUnfinishedTasks(t *testing.T) {
	t.Parallel()
	const n = 8
	started, release := make(chan struct{}, 2*n), make(chan struct{})
	api := newStandIn(t, always(done))
	hanging := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		select {
		case <-release:
			api.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	front := newServer(t, hanging)
	b := setup(t, front)
	b.cfg.ShutdownTimeout = time.Second
	_, stop := b.start()
	for i := range n {
		b.enqueue(unbindTask(i))
	}
	for range n {
		<-started
	}
	begin := time.Now()
	stop()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stop took %s; want at most 10s", took)
	}
	infos, err := b.inspector.ListPendingTasks(tasks.QueueUnbind)
	if err != nil || len(infos) != n {
		t.Fatalf("%d tasks are pending, %v; want all %d", len(infos), err, n)
	}
	for _, info := range infos {
		if info.Retried != 0 {
			t.Errorf("%s was charged; want it uncharged", info.ID)
		}
	}
	close(release)
	b.cfg.Registry = nil
	b.start()
	b.awaitSettled()
	_, deletes, _ := api.snapshot()
	if len(deletes) != n {
		t.Errorf("%d were deleted in the end; want all %d", len(deletes), n)
	}
}

func TestRun_StopWaitsForTasksInFlight(t *testing.T) {
	t.Parallel()
	started, release := make(chan struct{}), make(chan struct{})
	api := newStandIn(t, always(done))
	front := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-release
		api.ServeHTTP(w, r)
	}))
	b := setup(t, front)
	_, stop := b.start()
	b.enqueue(unbindTask(1))
	<-started
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	redistest.Eventually(t, settleIn, "the worker is stopping", func() bool { return strings.Contains(b.logs.String(), "stopping") })
	close(release)
	<-stopped
	if n := b.outstanding(); n != 0 {
		t.Errorf("%d tasks are outstanding after the stop; want none", n)
	}
}

func TestRun_RedisUnreachable(t *testing.T) {
	t.Parallel()
	b := setup(t, "http://127.0.0.1:1")
	b.redis.Kill()
	b.cfg.StartupTimeout = time.Second
	w, err := worker.New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = w.Run(t.Context())
	var unreachable *worker.UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Hint() == "" || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v; want an UnreachableError with a hint and the refused connection", err)
	}
	if !strings.Contains(b.logs.String(), "does not answer yet") {
		t.Error("no attempt in the log; want a line for each")
	}
}

func TestRun_RedisComesLate(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.redis.Kill()
	b.cfg.AdminAddr = "127.0.0.1:0"
	w, _ := b.start()
	redistest.Eventually(t, settleIn, "alive", func() bool { return status(t, w, "/healthz") == 200 })
	if got := status(t, w, "/readyz"); got != 503 {
		t.Errorf("without Redis /readyz answers %d; want 503", got)
	}
	b.redis.Restart()
	redistest.Eventually(t, settleIn, "ready", func() bool { return status(t, w, "/readyz") == 200 })
	b.enqueue(unbindTask(1))
	b.awaitSettled()
}

// A Redis whose memory is full answers with errors at once.
func TestRun_FullRedisIsNotAskedAllTheTime(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(done))
	b := setup(t, api.URL)
	b.start()
	b.enqueue(unbindTask(1))
	b.awaitSettled()
	scripts := func() int64 {
		n := int64(0)
		for line := range strings.Lines(b.rdb.Info(t.Context(), "commandstats").Val()) {
			var calls int64
			if _, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%d,", &calls); err == nil {
				n = calls
			}
		}
		return n
	}
	full := func(limit string) {
		if err := b.rdb.ConfigSet(t.Context(), "maxmemory", limit).Err(); err != nil {
			t.Fatal(err)
		}
	}
	b.enqueue(unbindTask(2), asynq.ProcessIn(2*time.Second))
	full("1")
	before := scripts()
	<-time.After(3 * time.Second)
	// asynq's janitor asks once for each queue, and others add some scripts.
	if n := scripts() - before; n > 200 {
		t.Errorf("%d scripts in 3 s; want at most 200", n)
	}
	full("0")
	b.awaitSettled()
	if _, deletes, _ := api.snapshot(); deletes["device-2"] != 1 {
		t.Errorf("deleted %v; want device-2 once", deletes)
	}
}

func TestWorker_AdminServer(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(gone))
	b := setup(t, api.URL)
	b.cfg.AdminAddr = "127.0.0.1:0"
	w, _ := b.start()
	b.enqueue(unbindTask(1))
	b.awaitSettled()
	redistest.Eventually(t, settleIn, "ready", func() bool { return status(t, w, "/readyz") == 200 })
	if body := get(t, w, "/metrics"); !strings.Contains(body, `kooworker_tasks_finished_total{kind="device:unbind",outcome="already_gone",reason="already_gone"} 1`) {
		t.Errorf("want one unbind that was already gone in the metrics:\n%s", body)
	}
	b.redis.Freeze()
	var ready struct {
		Status string            `json:"status"`
		Checks map[string]string `json:"checks"`
	}
	body := get(t, w, "/readyz")
	b.redis.Thaw()
	if err := json.Unmarshal([]byte(body), &ready); err != nil || ready.Status != "not ready" || ready.Checks["redis"] == "ok" {
		t.Errorf("with a hung Redis: %s, %v; want it not ready because of Redis", body, err)
	}
}

func TestNew_ChecksConfig(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*worker.Config){
		"no redis":            func(c *worker.Config) { c.Redis = nil },
		"no releases":         func(c *worker.Config) { c.Releases = nil },
		"concurrency":         func(c *worker.Config) { c.Concurrency = -1 },
		"shutdown timeout":    func(c *worker.Config) { c.ShutdownTimeout = time.Millisecond },
		"history keep":        func(c *worker.Config) { c.HistoryKeep = time.Second },
		"koodrive":            func(c *worker.Config) { c.KooDrive.BaseURL = "koodrive.example.com" },
		"koodrive plain http": func(c *worker.Config) { c.KooDrive.BaseURL = "http://koodrive.example.com" },
		"no authorizer":       func(c *worker.Config) { c.KooDrive.Authorizer = nil },
	} {
		cfg := worker.Config{Redis: func() redis.UniversalClient { return redis.NewClient(&redis.Options{}) }, Releases: worker.NoReleases{}}
		cfg.KooDrive.BaseURL, cfg.KooDrive.Authorizer = "https://koodrive.example.com", tokenAuthorizer(t, testToken)
		good, err := worker.New(cfg)
		if err != nil {
			t.Fatalf("a good configuration is refused: %v", err)
		}
		good.Close()
		spoil(&cfg)
		if _, err := worker.New(cfg); err == nil {
			t.Errorf("%s: accepted; want an error", name)
		}
	}
}

func get(t *testing.T, w *worker.Worker, path string) string {
	t.Helper()
	_, body := fetch(t, w, path)
	return body
}

func status(t *testing.T, w *worker.Worker, path string) int {
	t.Helper()
	code, _ := fetch(t, w, path)
	return code
}

// fetch returns 0 while the admin server is not there yet.
func fetch(t *testing.T, w *worker.Worker, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.AdminAddr()+path, http.NoBody)
	if err != nil {
		return 0, ""
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}
