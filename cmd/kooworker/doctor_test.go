package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// checkStatuses returns the gravest status of each check of a doctor's JSON.
func checkStatuses(t *testing.T, r result) (byName map[string]string, isOK bool) {
	t.Helper()
	grave := map[string]int{"ok": 0, "skipped": 1, "warning": 2, "error": 3}
	byName = make(map[string]string)
	report := r.object(t)
	checks, _ := report["checks"].([]any)
	for _, c := range checks {
		check, _ := c.(map[string]any)
		name, _ := check["name"].(string)
		status, _ := check["status"].(string)
		if before, seen := byName[name]; !seen || grave[status] > grave[before] {
			byName[name] = status
		}
		if detail, _ := check["detail"].(string); detail == "" {
			t.Errorf("%s has no detail; want a sentence", name)
		}
		if hint, _ := check["hint"].(string); hint == "" && (status == "error" || status == "warning") {
			t.Errorf("%s: %s without a hint: %v", name, status, check["detail"])
		}
	}
	isOK, _ = report["ok"].(bool)
	return byName, isOK
}

// errorsIn lists the checks with errors.
func errorsIn(byName map[string]string) (names []string) {
	for name, status := range byName {
		if status == "error" {
			names = append(names, name)
		}
	}
	return names
}

// TestDoctor_FindsAndFixes is what an operator does: find all that is wrong, let it be repaired,
// configure Redis and the URL anew, and see that all is well.
func TestDoctor_FindsAndFixes(t *testing.T) {
	t.Setenv("KOODRIVE_TOKEN", "a-token-of-the-test")
	server := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	rdb := server.Client()
	for _, device := range []string{"d-orphan", "d-archived"} {
		if r := kooworker(t, "", "enqueue", "unbind", "--user-id", "u-1", "--device-id", device, "--redis-url", server.URL()); r.code != exitDone {
			t.Fatalf("%+v; want exit 0", r)
		}
	}
	const orphan, archived = "device:unbind:u-1:d-orphan", "device:unbind:u-1:d-archived"
	if n := rdb.LRem(t.Context(), asynqx.PendingKey(tasks.QueueUnbind), 0, orphan).Val(); n != 1 {
		t.Fatalf("%d tasks were taken out; want 1", n)
	}
	if err := asynq.NewInspectorFromRedisClient(rdb).ArchiveTask(tasks.QueueUnbind, archived); err != nil {
		t.Fatal(err)
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html><body>It works!</body></html>"))
	}))
	t.Cleanup(page.Close)
	doctor := func(url string, args ...string) result {
		t.Helper()
		return kooworker(t, "", append([]string{"doctor", "--redis-url", server.URL(), "--koodrive-url", url}, args...)...)
	}
	wantErrors := func(what string, r result, code int, names ...string) {
		t.Helper()
		byName, isOK := checkStatuses(t, r)
		for _, name := range names {
			if byName[name] != "error" {
				t.Errorf("%s: %s is %q; want an error", what, name, byName[name])
			}
		}
		if found := errorsIn(byName); len(found) != len(names) || r.code != code || isOK != (code == exitDone) {
			t.Errorf("%s: exit %d, ok %v, errors %v; want exit %d and %v", what, r.code, isOK, found, code, names)
		}
	}

	wantErrors("before", doctor(page.URL, "--json"), exitFailed,
		"redis.eviction", "redis.persistence", "koodrive.url", "tasks.orphans", "tasks.archived")
	people := doctor(page.URL)
	for _, want := range []string{
		"ERROR    redis.eviction: maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy noeviction", "CONFIG SET appendonly yes",
		orphan, archived, "text/html", "\n5 errors, 1 warning, ", "doctor --fix",
	} {
		if !strings.Contains(people.stdout, want) {
			t.Errorf("the findings for people lack %q:\n%s", want, people.stdout)
		}
	}
	if people.code != exitFailed || people.stderr != "" || strings.Contains(people.stdout, "a-token-of-the-test") {
		t.Errorf("%+v; want exit 1, nothing on stderr, and no token", people)
	}

	fixed := doctor(page.URL, "--fix", "--json")
	wantErrors("after --fix", fixed, exitFailed, "redis.eviction", "redis.persistence", "koodrive.url")
	if done, _ := fixed.object(t)["fixed"].([]any); len(done) != 2 {
		t.Errorf("fixed: %v; want the orphan and the archived task", done)
	}
	if state := rdb.HGet(t.Context(), asynqx.TaskKey(tasks.QueueUnbind, orphan), "state").Val(); state != "pending" {
		t.Errorf("the orphan is %q; want it pending", state)
	}
	if n := rdb.Exists(t.Context(), asynqx.TaskKey(tasks.QueueDeadLetter, archived)).Val(); n != 1 {
		t.Error("the archived task is no dead letter; want it there")
	}
	if policy := rdb.ConfigGet(t.Context(), "maxmemory-policy").Val()["maxmemory-policy"]; policy != "allkeys-lru" {
		t.Errorf("--fix has set maxmemory-policy to %s; want the configuration left alone", policy)
	}

	rdb.ConfigSet(t.Context(), "maxmemory-policy", "noeviction")
	rdb.ConfigSet(t.Context(), "appendonly", "yes")
	api, err := simulator.New(simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, Token: "a-token-of-the-test"}})
	if err != nil {
		t.Fatal(err)
	}
	koodrive := httptest.NewServer(api)
	t.Cleanup(koodrive.Close)
	redistest.Eventually(t, 30*time.Second, "Redis has written its append-only file", func() bool {
		return strings.Contains(rdb.Info(t.Context(), "persistence").Val(), "aof_rewrite_in_progress:0")
	})
	wantErrors("at the end", doctor(koodrive.URL, "--json"), exitDone)
	if r := doctor(koodrive.URL); r.code != exitDone || !strings.Contains(r.stdout, "\n3 warnings, 1 skipped, ") ||
		!strings.Contains(r.stdout, "dead.letters: 1 dead letter waits for a worker") || strings.Contains(r.stdout, "there are no dead letters") {
		t.Errorf("%+v; want exit 0, and warnings that no worker is alive, and of the dead letter", r)
	}
}

// Without Redis everything that needs it is skipped, and KooDrive is checked all the same.
func TestDoctor_RedisDown(t *testing.T) {
	t.Parallel()
	r := kooworker(t, "", "doctor", "--json", "--redis-url", "redis://127.0.0.1:1")
	byName, _ := checkStatuses(t, r)
	if r.code != exitFailed || byName["redis.reachable"] != "error" || byName["redis.eviction"] != "skipped" || byName["tasks.orphans"] != "skipped" || byName["koodrive.url"] != "skipped" {
		t.Errorf("exit %d, %v; want exit 1, redis.reachable an error, and the others skipped", r.code, byName)
	}
}

// Wrong settings of KooDrive are a finding, and hide nothing else.
func TestDoctor_WrongSettings(t *testing.T) {
	t.Setenv("KOODRIVE_TOKEN_FILE", "/nonexistent/token")
	server := redistest.Start(t, "--appendonly", "yes")
	r := kooworker(t, "", "doctor", "--json", "--koodrive-url", "https://k.example", "--redis-url", server.URL())
	byName, _ := checkStatuses(t, r)
	if r.code != exitFailed || byName["koodrive.settings"] != "error" || byName["redis.persistence"] != "ok" {
		t.Errorf("exit %d, %v; want exit 1, koodrive.settings an error and redis.persistence ok", r.code, byName)
	}
	if r := kooworker(t, "", "doctor", "--quick=maybe"); r.code != exitUsage {
		t.Errorf("a wrong flag: %+v; want exit 2", r)
	}
}

// A worker that runs repairs by itself: --fix leaves that to it.
func TestDoctor_FixBesideAWorker(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes")
	rdb := server.Client()
	rdb.Set(t.Context(), "{kooworker:recovery}:lock", "a worker", time.Hour)
	rdb.ZAdd(t.Context(), asynqx.ArchivedKey(tasks.QueueUnbind), redis.Z{Score: 1, Member: "x"})
	r := kooworker(t, "", "doctor", "--fix", "--json", "--redis-url", server.URL())
	byName, _ := checkStatuses(t, r)
	if r.code != exitFailed || byName["fix"] != "warning" || byName["tasks.archived"] != "error" {
		t.Errorf("exit %d, %v; want exit 1, a warning that another process repairs, and the archived task still there", r.code, byName)
	}
}
