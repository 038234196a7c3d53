package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// oldState is a dump of what the version of November 2026 (commit 6bd053b) left in
// Redis 7.0. That version has enqueued, in this order:
//
//   - a batch old-batch from oldInput; a worker has run for three seconds and was
//     killed while slow-1 was in flight and retry-1 waited for its next attempt;
//   - single unbinds: dead-3, which is dead and waits for its replay; retry-2, which
//     waits for its next attempt; slow-2, in flight when the worker was killed;
//     ok-2; and later-1, scheduled;
//   - a release, an off-boarding of leaver-1 without a batch, and one of leaver-2 in
//     the batch old-offboard;
//   - a batch old-queued of 20 unbinds, ok-b1 to ok-b20;
//   - a ledger of five locks: live-1 of leaver-2, live-2, and three stale ones, two
//     of which a sweep has enqueued.
//
// API of that time: dead-… is forbidden, gone-… is not bound, all else succeeds.
const oldState = "state-2026-11.rdb"

const oldInput = "user_id,device_id\nu1,ok-1\nu1,full-1\nu1,gone-1\nu1,dead-1\nu1,dead-2\nu1,retry-1\nu1,slow-1\nu1,ok-1\nu1,bad id\n"

// oldAPI is the KooDrive of the dump. It counts what was unbound or released.
type oldAPI struct {
	mu      sync.Mutex
	bound   map[string][]string // by user
	removed map[string]int
}

func (a *oldAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	user, target := r.Header.Get("X-User-Id"), filepath.Base(r.URL.Path)
	if r.Method == http.MethodGet {
		list := []map[string]string{}
		for _, id := range a.bound[user] {
			list = append(list, map[string]string{"deviceId": id, "createTime": "2025-09-15T06:14:48.630Z"})
		}
		body, err := json.Marshal(list)
		if err != nil {
			panic(err)
		}
		_, _ = fmt.Fprintf(w, `{"code":0,"msg":"success","data":%s}`, body)
		return
	}
	if target == "lock" {
		target = r.Header.Get("X-Backup-Lock-Id")
	}
	switch {
	case strings.HasPrefix(target, "dead-"):
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"code":13000410,"msg":"no permission"}`))
	case strings.HasPrefix(target, "gone-"):
		_, _ = w.Write([]byte(`{"code":13000309,"msg":"resource doesn't exist"}`))
	default:
		a.removed[target]++
		a.bound[user] = slices.DeleteFunc(a.bound[user], func(id string) bool { return id == target })
		_, _ = w.Write([]byte(`{"code":0,"msg":"success"}`))
	}
}

// Tasks, batches, dead letters and the ledger of locks that an older version has
// written are read and finished by this one.
func TestFormat_StateOfAnOlderVersionIsFinished(t *testing.T) {
	t.Parallel()
	dump, err := os.ReadFile(filepath.Join("testdata", oldState))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, oldState), dump, 0o600); err != nil {
		t.Fatal(err)
	}
	server := redistest.Start(t, "--dir", dir, "--dbfilename", oldState)
	redisURL := "--redis-url=" + server.URL()
	api := &oldAPI{removed: map[string]int{}, bound: map[string][]string{}}
	for _, user := range []string{"leaver-1", "leaver-2"} {
		api.bound[user] = []string{"dev-" + user + "-0", "dev-" + user + "-1"}
	}
	koodrive := httptest.NewServer(api)
	t.Cleanup(koodrive.Close)

	// Who resumes the batch is known, and enqueues nothing twice.
	file := filepath.Join(dir, "devices.csv")
	if err := os.WriteFile(file, []byte(oldInput), 0o600); err != nil {
		t.Fatal(err)
	}
	resumed := kooworker(t, "", "enqueue", "unbind", redisURL, "--file", file, "--batch", "old-batch", "--json")
	if got := resumed.object(t); resumed.code != 3 || got["enqueued"] != 0.0 || got["rejected"] != 1.0 || got["skipped"] != 8.0 {
		t.Errorf("resuming old-batch: %+v; want 8 lines skipped and 1 rejected", resumed)
	}

	worker := startWorker(t, server, koodrive.URL)
	rdb := server.Client()
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	redistest.Eventually(t, 90*time.Second, "every task has its outcome", func() bool {
		queues, err := inspector.Queues()
		if err != nil {
			return false
		}
		for _, queue := range queues {
			info, err := inspector.GetQueueInfo(queue)
			if err != nil || info.Pending+info.Active+info.Scheduled+info.Archived > 0 || queue != tasks.QueueDeadLetter && info.Retry > 0 {
				return false
			}
		}
		return true
	})

	for id, want := range map[string]map[string]float64{
		"old-batch":    {"total": 9, "succeeded": 4, "already_gone": 1, "dead": 2, "duplicate": 1, "rejected": 1},
		"old-offboard": {"total": 4, "succeeded": 4}, // the off-boarding, two devices, and the lock that the ledger knew
		"old-queued":   {"total": 20, "succeeded": 20},
	} {
		if code := kooworker(t, "", "batch", "wait", redisURL, id, "--timeout", "30s").code; code != 0 && code != 3 {
			t.Errorf("batch wait %s: exit code %d; want 0 or 3", id, code)
		}
		got := counts(show(t, server, id))
		maps.DeleteFunc(got, func(_ string, n float64) bool { return n == 0 })
		if !maps.Equal(got, want) {
			t.Errorf("batch %s is %v; want %v", id, got, want)
		}
		if audit := kooworker(t, "", "batch", "audit", redisURL, id); audit.code != 0 {
			t.Errorf("batch audit %s: %+v; want it clean", id, audit)
		}
		receipts := kooworker(t, "", "batch", "receipts", redisURL, id).lines(t)
		if n := want["total"] - want["duplicate"] - want["rejected"]; float64(len(receipts)) != n {
			t.Errorf("batch %s has %d receipts; want %g", id, len(receipts), n)
		}
	}

	// The receipts of that version are in no index of users. Those of this one are.
	for user, want := range map[string]int{"u1": 7, "leaver-2": 4} {
		lines := historyOf(t, server, "--user-id", user)
		if n := len(slices.DeleteFunc(lines, func(l string) bool {
			return !strings.HasSuffix(l, " old-batch") && !strings.HasSuffix(l, " old-offboard")
		})); n != want {
			t.Errorf("the history of %s has %q; want %d of these batches", user, lines, want)
		}
	}

	dead := map[string]string{}
	for l, err := range deadletter.NewStore(rdb).List(t.Context(), deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		dead[l.Target] = fmt.Sprintf("%s %s %s", l.Kind, l.Reason, l.Batch)
	}
	wantDead := map[string]string{
		"dead-1": "device:unbind forbidden old-batch", "dead-2": "device:unbind forbidden old-batch", "dead-3": "device:unbind forbidden ",
	}
	if !maps.Equal(dead, wantDead) {
		t.Errorf("dead letters %v; want %v", dead, wantDead)
	}

	removed := map[string]bool{
		"retry-1": true, "slow-1": true, "retry-2": true, "slow-2": true, "ok-2": true, "later-1": true,
		"78e41c7e-db02-4d55-85b3-8153e4fefd2e@102": true, "stale-1@101": true, "stale-2@101": true, "live-1@102": true,
		"dev-leaver-1-0": true, "dev-leaver-1-1": true, "dev-leaver-2-0": true, "dev-leaver-2-1": true,
	}
	for i := range 20 {
		removed[fmt.Sprint("ok-b", i+1)] = true
	}
	api.mu.Lock()
	for target, n := range api.removed {
		if n != 1 || !removed[target] {
			t.Errorf("%s was removed %d times; want what the older version has left, once each", target, n)
		}
		delete(removed, target)
	}
	api.mu.Unlock()
	if len(removed) > 0 {
		t.Errorf("not removed: %v", slices.Sorted(maps.Keys(removed)))
	}

	locks := map[string]bool{}
	for _, l := range kooworker(t, "", "locks", "list", redisURL, "--json").lines(t) {
		locks[fmt.Sprint(l["lock_id"], " ", l["swept"])] = true
	}
	if want := map[string]bool{"stale-3@101 false": true, "live-2@102 false": true}; !maps.Equal(locks, want) {
		t.Errorf("the ledger of locks holds %v; want %v", locks, want)
	}
	if code := worker.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the worker exits with %d; want 0", code)
	}
}
