package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// csvOf is a file of n unbinds.
func unbindsCSV(n int) string {
	var b strings.Builder
	b.WriteString("user_id,device_id\n")
	for i := range n {
		fmt.Fprintf(&b, "user-%d,device-%d\n", i/3, i)
	}
	return b.String()
}

// show returns the counts of a batch. It fails the test if the audit is not clean.
func show(t *testing.T, server *redistest.Server, id string) map[string]any {
	t.Helper()
	if r := kooworker(t, "", "batch", "audit", id, "--json", "--redis-url", server.URL()); r.code != exitDone || r.object(t)["clean"] != true {
		t.Errorf("audit: %+v; want exit 0 and a clean audit", r)
	}
	return kooworker(t, "", "batch", "show", id, "--json", "--redis-url", server.URL()).object(t)
}

// counts returns the members of show that are numbers and not zero.
func counts(object map[string]any) map[string]float64 {
	out := map[string]float64{}
	for key, value := range object {
		if n, ok := value.(float64); ok && n != 0 {
			out[key] = n
		}
	}
	return out
}

func TestBatch_FromFileToReceipts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,target=device-7")
	for i := range 30 {
		if i != 5 { // already gone
			sim.Bind(fmt.Sprintf("user-%d", i/3), simulator.Device{DeviceID: fmt.Sprintf("device-%d", i), DeviceName: "phone"})
		}
	}
	startWorker(t, server, url)
	r := kooworker(t, unbindsCSV(30), "enqueue", "unbind", "--file", "-", "--wait", "--json", "--redis-url", server.URL())
	sum := r.object(t)
	id, _ := sum["batch"].(string)
	if r.code != exitPartial || id == "" || sum["enqueued"] != 30.0 {
		t.Fatalf("%+v; want exit 3, because one task is dead", r)
	}
	want := map[string]float64{"total": 30, "succeeded": 28, "already_gone": 1, "dead": 1}
	state := show(t, server, id)
	if diff := cmp.Diff(want, counts(state)); diff != "" || state["done"] != true {
		t.Errorf("done %v; (-want +got):\n%s", state["done"], diff)
	}
	balance, _ := sum["balance"].(map[string]any)
	if diff := cmp.Diff(state, balance); diff != "" {
		t.Errorf("--wait and show differ (-show +wait):\n%s", diff)
	}
	for _, key := range []string{"id", "created_at", "total", "queued", "succeeded", "already_gone", "superseded", "dead", "discarded", "duplicate", "rejected", "done"} {
		if _, there := state[key]; !there {
			t.Errorf("show has no %q; want it", key)
		}
	}
	receipts := func(args ...string) []map[string]any {
		t.Helper()
		return kooworker(t, "", append([]string{"batch", "receipts", id, "--redis-url", server.URL()}, args...)...).lines(t)
	}
	outcomes := map[string]string{}
	for _, r := range receipts() {
		outcomes[fmt.Sprint(r["target"])] = fmt.Sprintf("%v %v %v %v", r["index"], r["outcome"], r["reason"], r["attempts"])
		device, _ := r["device"].(map[string]any)
		if named := device["deviceId"] == r["target"] && device["deviceName"] == "phone"; named != (r["outcome"] == "succeeded") {
			t.Errorf("%v: device %v; want the device of a succeeded unbind, and else none", r["target"], r["device"])
		}
	}
	if len(outcomes) != 30 || outcomes["device-0"] != "0 succeeded ok 1" || outcomes["device-5"] != "5 already_gone already_gone 1" || outcomes["device-7"] != "7 dead forbidden 1" {
		t.Errorf("%d receipts: %v; want 30, with device-5 already gone and device-7 dead", len(outcomes), outcomes)
	}

	var ofOne []string
	for _, r := range receipts("--user-id", "user-2") {
		ofOne = append(ofOne, fmt.Sprint(r["user_id"], " ", r["target"]))
	}
	slices.Sort(ofOne)
	if diff := cmp.Diff([]string{"user-2 device-6", "user-2 device-7", "user-2 device-8"}, ofOne); diff != "" {
		t.Errorf("--user-id (-want +got):\n%s", diff)
	}
	if n := len(receipts("--user-id", "user-2", "--follow")); n != 3 {
		t.Errorf("--user-id --follow: %d receipts; want 3", n)
	}
	if n := len(receipts("--user-id", "user-222")); n != 0 {
		t.Errorf("--user-id of nobody: %d receipts; want none", n)
	}

	// The dead task is replayed, so its receipt changes.
	sim.ClearFaults()
	redistest.Eventually(t, 20*time.Second, "the letter is replayed", func() bool {
		return kooworker(t, "", "dead", "replay", "--batch", id, "--json", "--redis-url", server.URL()).object(t)["done"] == 1.0
	})
	redistest.Eventually(t, 20*time.Second, "the replayed task has succeeded", func() bool {
		return counts(kooworker(t, "", "batch", "show", id, "--json", "--redis-url", server.URL()).object(t))["succeeded"] == 29
	})
	show(t, server, id)
	if now, all := receipts(), receipts("--history"); len(now) != 30 || len(all) != 31 {
		t.Errorf("%d receipts, %d with their history; want 30 and 31", len(now), len(all))
	}
	if r := kooworker(t, "", "batch", "wait", id, "--redis-url", server.URL()); r.code != exitDone {
		t.Errorf("wait: %+v; want exit 0", r)
	}
	if r := kooworker(t, "", "batch", "delete", id, "--redis-url", server.URL()); r.code != exitDone {
		t.Errorf("delete: %+v; want exit 0", r)
	}
	if r := kooworker(t, "", "batch", "show", id, "--redis-url", server.URL()); r.code != exitFailed || !strings.Contains(r.stderr, "there is no batch") {
		t.Errorf("show of a deleted batch: %+v; want exit 1 and 'there is no batch'", r)
	}
}

func TestDeadDiscard_CountsInTheBatch(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t, "forbidden")
	startWorker(t, server, url)
	if r := kooworker(t, unbindsCSV(3), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--wait", "--redis-url", server.URL()); r.code != exitPartial {
		t.Fatalf("%+v; want exit 3", r)
	}
	redistest.Eventually(t, 20*time.Second, "two letters are discarded", func() bool {
		kooworker(t, "", "dead", "discard", "--batch", "b-1", "--limit", "2", "--yes", "--redis-url", server.URL())
		return counts(show(t, server, "b-1"))["dead"] <= 1
	})
	if diff := cmp.Diff(map[string]float64{"total": 3, "dead": 1, "discarded": 2}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := kooworker(t, "", "batch", "wait", "b-1", "--redis-url", server.URL()); r.code != exitPartial {
		t.Errorf("wait: exit %d; want exit 3, because discarded tasks were not done", r.code)
	}
}

func TestEnqueueFile_SameFileResumes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(unbindsCSV(2000)))
	_ = w.Close()
	file := filepath.Join(t.TempDir(), "devices.csv.gz")
	if err := os.WriteFile(file, zipped.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	feed := func(stdin string, args ...string) result {
		t.Helper()
		return kooworker(t, stdin, append([]string{"enqueue", "unbind", "--batch", "b-1", "--json", "--redis-url", server.URL()}, args...)...)
	}
	if r := feed("", "--file", file); r.code != exitDone || r.object(t)["enqueued"] != 2000.0 {
		t.Fatalf("%+v; want exit 0 and enqueued 2000", r)
	}
	if r := feed(unbindsCSV(2000), "--file", "-"); r.code != exitDone || r.object(t)["enqueued"] != 0.0 || r.object(t)["skipped"] != 2000.0 {
		t.Errorf("again: %+v; want exit 0, enqueued 0 and skipped 2000", r)
	}
	if r := feed(unbindsCSV(1999), "--file", "-"); r.code != exitUsage || !strings.Contains(r.stderr, "shorter") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("another file: %+v; want exit 2, 'shorter' and 'hint:'", r)
	}
	if r := feed(unbindsCSV(2000), "--file", "-", "--no-guard"); r.code != exitUsage || !strings.Contains(r.stderr, "no-guard") {
		t.Errorf("another intent: %+v; want exit 2 and 'no-guard'", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": 2000, "queued": 2000}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "300ms", "--redis-url", server.URL()); r.code != exitTimeout || !strings.Contains(r.stderr, "2000 of 2000 tasks are queued") {
		t.Errorf("wait without a worker: %+v; want exit 4 and '2000 of 2000 tasks are queued'", r)
	}
	if r := kooworker(t, "", "batch", "delete", "b-1", "--redis-url", server.URL()); r.code != exitUsage || !strings.Contains(r.stderr, "--force") {
		t.Errorf("delete: %+v; want exit 2 and '--force'", r)
	}
	if lines := kooworker(t, "", "batch", "list", "--json", "--redis-url", server.URL()).lines(t); len(lines) != 1 || lines[0]["id"] != "b-1" {
		t.Errorf("list: %v; want b-1 alone", lines)
	}
	if r := kooworker(t, "", "batch", "list", "--redis-url", server.URL()); !strings.Contains(r.stdout, "b-1") {
		t.Errorf("list: %+v; want 'b-1'", r)
	}
}

func TestEnqueueFile_RejectsCanBeRepaired(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	bad := []string{`u,../x`, `,device-9`, `only-one-column`, `"stray,device-1`, `u,device 1`}
	rejects := filepath.Join(t.TempDir(), "rejects.csv")
	args := []string{"enqueue", "unbind", "--file", "-", "--batch", "b-1", "--rejects", rejects, "--json", "--redis-url", server.URL()}
	for range 2 { // the second run skips all tasks, and its rejects are the same
		r := kooworker(t, unbindsCSV(100)+strings.Join(bad, "\n")+"\n", args...)
		if r.code != exitPartial || r.object(t)["rejected"] != 5.0 || !strings.Contains(r.stderr, "line 102") {
			t.Fatalf("%+v; want exit 3, rejected 5 and 'line 102'", r)
		}
		kept, err := os.ReadFile(rejects)
		if want := "user_id,device_id\n" + strings.Join(bad, "\n") + "\n"; err != nil || string(kept) != want {
			t.Errorf("rejects: %q, %v; want %q", kept, err, want)
		}
	}
	why, err := os.ReadFile(rejects + ".reasons")
	if err != nil || strings.Count(string(why), "\n") != 5 || !strings.Contains(string(why), `"line":102`) {
		t.Errorf("reasons: %s, %v; want 5 lines, one of them for line 102", why, err)
	}
	if diff := cmp.Diff(map[string]float64{"total": 105, "queued": 100, "rejected": 5}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	repaired := filepath.Join(t.TempDir(), "repaired.csv")
	if err := os.WriteFile(repaired, []byte("user_id,device_id\nu,x\nv,device-9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := kooworker(t, "", "enqueue", "unbind", "--file", repaired, "--batch", "b-2", "--json", "--redis-url", server.URL()); r.code != exitDone || r.object(t)["enqueued"] != 2.0 {
		t.Errorf("repaired: %+v; want exit 0 and enqueued 2", r)
	}
}

func TestEnqueueFile_RejectsNeverOverwriteTheInput(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	dir := t.TempDir()
	file, link := filepath.Join(dir, "devices.csv"), filepath.Join(dir, "link.csv")
	if err := errors.Join(os.WriteFile(file, []byte(unbindsCSV(3)), 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, rejects := range []string{file, link} {
		r := kooworker(t, "", "enqueue", "unbind", "--file", file, "--rejects", rejects, "--redis-url", server.URL())
		if r.code != exitUsage || !strings.Contains(r.stderr, "is the file that is read") {
			t.Errorf("%s: %+v; want exit 2 and 'is the file that is read'", rejects, r)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != unbindsCSV(3) {
		t.Errorf("the file is %q, %v; want it unchanged", text, err)
	}
}

// Ctrl-C ends a command soon even if Redis hangs.
func TestBatch_InterruptWhileRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if r := kooworker(t, unbindsCSV(10), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	rdb := server.Client()
	reads := func() (n int) { // how many times somebody has read the counts of a batch
		stats := rdb.InfoMap(t.Context(), "commandstats").Item("Commandstats", "cmdstat_hmget")
		_, _ = fmt.Sscanf(stats, "calls=%d", &n)
		return n
	}
	before := reads()
	waiting := startProcess(t, nil, "batch", "wait", "b-1", "--redis-url", server.URL())
	redistest.Eventually(t, 20*time.Second, "the command waits", func() bool { return reads() > before })
	server.Freeze()
	defer server.Thaw()

	silent, err := net.Listen("tcp", "127.0.0.1:0") // a frozen Redis cannot tell that the command has asked
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	showing := startProcess(t, nil, "batch", "show", "b-1", "--redis-url", "redis://"+silent.Addr().String())
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // returns when the command has asked
		t.Fatal(err)
	}
	// It takes less than 2 s, and a second more on a busy machine. go-redis' own time-out
	// takes more than 4 s.
	const soon = 3 * time.Second
	for name, p := range map[string]*process{"wait": waiting, "show": showing} {
		start := time.Now()
		if code := p.end(t, syscall.SIGINT); code != exitFailed || time.Since(start) > soon || !strings.Contains(p.log(), "interrupted") {
			t.Errorf("%s: exit %d after %s: %s; want exit 1 within %s, and 'interrupted'", name, code, time.Since(start), p.log(), soon)
		}
	}
}

func TestBatch_TwoBatchesWithOneDevice(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	sim.Bind("user-0", simulator.Device{DeviceID: "device-0"})
	for _, id := range []string{"b-1", "b-2"} {
		kooworker(t, unbindsCSV(1), "enqueue", "unbind", "--file", "-", "--batch", id, "--redis-url", server.URL())
	}
	startWorker(t, server, url)
	sum := map[string]float64{}
	for _, id := range []string{"b-1", "b-2"} {
		if r := kooworker(t, "", "batch", "wait", id, "--timeout", "30s", "--redis-url", server.URL()); r.code != exitDone {
			t.Fatalf("%+v; want exit 0", r)
		}
		for key, n := range counts(show(t, server, id)) {
			sum[key] += n
		}
	}
	if diff := cmp.Diff(map[string]float64{"total": 2, "succeeded": 1, "already_gone": 1}, sum); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A device that was bound again after its unbind was enqueued stays bound, unless the
// unbind is not guarded.
func TestDeadReplay_NewBindingSupersedesUnbind(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,call=unbind")
	longAgo := simulator.FormatTime(time.Now().Add(-24 * time.Hour))
	client, err := enqueue.New(enqueue.Config{Redis: server.Client(), Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	for device, opts := range map[string][]enqueue.Option{"guarded": nil, "insisted": {enqueue.NoGuard()}} {
		sim.Bind("u", simulator.Device{DeviceID: device, CreateTime: longAgo})
		_, err := client.Bulk(t.Context(), single(tasks.DeviceUnbind{UserID: "u", DeviceID: device}), enqueue.BulkOptions{Batch: &batch.Spec{ID: device}, Options: opts})
		if err != nil {
			t.Fatal(err)
		}
	}
	startWorker(t, server, url)
	for _, id := range []string{"guarded", "insisted"} {
		if r := kooworker(t, "", "batch", "wait", id, "--timeout", "30s", "--redis-url", server.URL()); r.code != exitPartial {
			t.Fatalf("%+v; want exit 3, because the unbind is dead at first", r)
		}
		sim.Bind("u", simulator.Device{DeviceID: id}) // the user binds it again
	}
	sim.ClearFaults()
	replayed := 0.0
	redistest.Eventually(t, 20*time.Second, "both are replayed", func() bool {
		n, _ := kooworker(t, "", "dead", "replay", "--all", "--json", "--redis-url", server.URL()).object(t)["done"].(float64)
		replayed += n
		return replayed == 2
	})
	for id, want := range map[string]string{"guarded": "superseded", "insisted": "succeeded"} {
		redistest.Eventually(t, 20*time.Second, id+" is "+want, func() bool { return counts(show(t, server, id))[want] == 1 })
	}
	if left := sim.Devices("u"); len(left) != 1 || left[0].DeviceID != "guarded" {
		t.Errorf("bound: %v; want the guarded device alone", left)
	}
}

// What a worker has done meanwhile is not missing.
func TestBatch_RestoreBesideAWorker(t *testing.T) {
	t.Parallel()
	const n = 20_000
	server := redistest.Start(t)
	api := newFakeAPI(t, 0)
	startWorker(t, server, api.URL, "--concurrency", "64")
	args := []string{"enqueue", "unbind", "--file", "-", "--batch", "b-1", "--json", "--redis-url", server.URL()}
	for range 3 {
		r := kooworker(t, unbindsCSV(n), args...)
		if r.code != exitDone {
			t.Fatalf("%+v; want exit 0", r)
		}
		if sum := r.object(t); len(args) > 9 && sum["enqueued"] != 0.0 {
			t.Errorf("%v were restored; want none", sum["enqueued"])
		}
		args = append(args[:9:9], "--restore")
	}
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "2m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if done, twice := api.executed(); done != n || len(twice) != 0 {
		t.Errorf("%d were done, %d of them twice; want %d, each once", done, len(twice), n)
	}
}
