package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
func csvOf(n int) string {
	var b strings.Builder
	b.WriteString("user_id,device_id\n")
	for i := range n {
		fmt.Fprintf(&b, "user-%d,device-%d\n", i/3, i)
	}
	return b.String()
}

// show returns how a batch stands, and fails the test if its audit does not.
func show(t *testing.T, server *redistest.Server, id string) map[string]any {
	t.Helper()
	if r := kooworker(t, "", "batch", "audit", id, "--json", "--redis-url", server.URL()); r.code != exitDone || r.object(t)["clean"] != true {
		t.Errorf("audit: %+v", r)
	}
	return kooworker(t, "", "batch", "show", id, "--json", "--redis-url", server.URL()).object(t)
}

// counts are the members of show that are numbers and not zero.
func counts(object map[string]any) map[string]float64 {
	out := map[string]float64{}
	for key, value := range object {
		if n, ok := value.(float64); ok && n != 0 {
			out[key] = n
		}
	}
	return out
}

func TestABatchFromItsFileToItsReceipts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,target=device-7")
	for i := range 30 {
		if i != 5 { // already gone
			sim.Bind(fmt.Sprintf("user-%d", i/3), simulator.Device{DeviceID: fmt.Sprintf("device-%d", i), DeviceName: "phone"})
		}
	}
	startWorker(t, server, url)
	r := kooworker(t, csvOf(30), "enqueue", "unbind", "--file", "-", "--wait", "--json", "--redis-url", server.URL())
	sum := r.object(t)
	id, _ := sum["batch"].(string)
	if r.code != exitPartial || id == "" || sum["enqueued"] != 30.0 {
		t.Fatalf("%+v; want exit code 3, for the one that is dead", r)
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
			t.Errorf("show has no %q", key)
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
			t.Errorf("%v: device %v", r["target"], r["device"])
		}
	}
	if len(outcomes) != 30 || outcomes["device-0"] != "0 succeeded ok 1" || outcomes["device-5"] != "5 already_gone already_gone 1" || outcomes["device-7"] != "7 dead forbidden 1" {
		t.Errorf("%d receipts: %v", len(outcomes), outcomes)
	}

	// The dead one is replayed: its receipt changes.
	sim.ClearFaults()
	redistest.Eventually(t, 20*time.Second, "replayed", func() bool {
		return kooworker(t, "", "dead", "replay", "--batch", id, "--json", "--redis-url", server.URL()).object(t)["done"] == 1.0
	})
	redistest.Eventually(t, 20*time.Second, "unbound after all", func() bool {
		return counts(kooworker(t, "", "batch", "show", id, "--json", "--redis-url", server.URL()).object(t))["succeeded"] == 29
	})
	show(t, server, id)
	if now, all := receipts(), receipts("--history"); len(now) != 30 || len(all) != 31 {
		t.Errorf("%d receipts, %d with their history; want 30 and 31", len(now), len(all))
	}
	if r := kooworker(t, "", "batch", "wait", id, "--redis-url", server.URL()); r.code != exitDone {
		t.Errorf("wait: %+v", r)
	}
	if r := kooworker(t, "", "batch", "delete", id, "--redis-url", server.URL()); r.code != exitDone {
		t.Errorf("delete: %+v", r)
	}
	if r := kooworker(t, "", "batch", "show", id, "--redis-url", server.URL()); r.code != exitFailed || !strings.Contains(r.stderr, "there is no batch") {
		t.Errorf("show, after all that: %+v", r)
	}
}

func TestWhatIsDiscardedIsInTheLedger(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, url := startSimulator(t, "forbidden")
	startWorker(t, server, url)
	if r := kooworker(t, csvOf(3), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--wait", "--redis-url", server.URL()); r.code != exitPartial {
		t.Fatalf("%+v", r)
	}
	redistest.Eventually(t, 20*time.Second, "two are discarded", func() bool {
		kooworker(t, "", "dead", "discard", "--batch", "b-1", "--limit", "2", "--yes", "--redis-url", server.URL())
		return counts(show(t, server, "b-1"))["dead"] <= 1
	})
	if diff := cmp.Diff(map[string]float64{"total": 3, "dead": 1, "discarded": 2}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := kooworker(t, "", "batch", "wait", "b-1", "--redis-url", server.URL()); r.code != exitPartial {
		t.Errorf("wait: exit %d; what is discarded was not done", r.code)
	}
}

func TestTheSameFileAgainGoesOn(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(csvOf(2000)))
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
		t.Fatalf("%+v", r)
	}
	if r := feed(csvOf(2000), "--file", "-"); r.code != exitDone || r.object(t)["enqueued"] != 0.0 || r.object(t)["skipped"] != 2000.0 {
		t.Errorf("again: %+v", r)
	}
	if r := feed(csvOf(1999), "--file", "-"); r.code != exitUsage || !strings.Contains(r.stderr, "shorter") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("another file: %+v", r)
	}
	if r := feed(csvOf(2000), "--file", "-", "--no-guard"); r.code != exitUsage || !strings.Contains(r.stderr, "no-guard") {
		t.Errorf("another intent: %+v", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": 2000, "queued": 2000}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "300ms", "--redis-url", server.URL()); r.code != exitTimeout || !strings.Contains(r.stderr, "2000 of 2000 tasks are queued") {
		t.Errorf("nobody works: %+v", r)
	}
	if r := kooworker(t, "", "batch", "delete", "b-1", "--redis-url", server.URL()); r.code != exitUsage || !strings.Contains(r.stderr, "--force") {
		t.Errorf("delete: %+v", r)
	}
	if lines := kooworker(t, "", "batch", "list", "--json", "--redis-url", server.URL()).lines(t); len(lines) != 1 || lines[0]["id"] != "b-1" {
		t.Errorf("list: %v", lines)
	}
	if r := kooworker(t, "", "batch", "list", "--redis-url", server.URL()); !strings.Contains(r.stdout, "b-1") {
		t.Errorf("list: %+v", r)
	}
}

func TestRejectsCanBeRepairedAndFedIn(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	bad := []string{`u,../x`, `,device-9`, `only-one-column`, `"stray,device-1`, `u,device 1`}
	rejects := filepath.Join(t.TempDir(), "rejects.csv")
	args := []string{"enqueue", "unbind", "--file", "-", "--batch", "b-1", "--rejects", rejects, "--json", "--redis-url", server.URL()}
	for range 2 { // the second time all is skipped, and the rejects are the same
		r := kooworker(t, csvOf(100)+strings.Join(bad, "\n")+"\n", args...)
		if r.code != exitPartial || r.object(t)["rejected"] != 5.0 || !strings.Contains(r.stderr, "line 102") {
			t.Fatalf("%+v", r)
		}
		kept, err := os.ReadFile(rejects)
		if want := "user_id,device_id\n" + strings.Join(bad, "\n") + "\n"; err != nil || string(kept) != want {
			t.Errorf("rejects: %q, %v; want %q", kept, err, want)
		}
	}
	why, err := os.ReadFile(rejects + ".reasons")
	if err != nil || strings.Count(string(why), "\n") != 5 || !strings.Contains(string(why), `"line":102`) {
		t.Errorf("reasons: %s, %v", why, err)
	}
	if diff := cmp.Diff(map[string]float64{"total": 105, "queued": 100, "rejected": 5}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	repaired := filepath.Join(t.TempDir(), "repaired.csv")
	if err := os.WriteFile(repaired, []byte("user_id,device_id\nu,x\nv,device-9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := kooworker(t, "", "enqueue", "unbind", "--file", repaired, "--batch", "b-2", "--json", "--redis-url", server.URL()); r.code != exitDone || r.object(t)["enqueued"] != 2.0 {
		t.Errorf("repaired: %+v", r)
	}
}

func TestTheFileThatIsReadIsNotOverwritten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	dir := t.TempDir()
	file, link := filepath.Join(dir, "devices.csv"), filepath.Join(dir, "link.csv")
	if err := errors.Join(os.WriteFile(file, []byte(csvOf(3)), 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, rejects := range []string{file, link} {
		r := kooworker(t, "", "enqueue", "unbind", "--file", file, "--rejects", rejects, "--redis-url", server.URL())
		if r.code != exitUsage || !strings.Contains(r.stderr, "is the file that is read") {
			t.Errorf("%s: %+v", rejects, r)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != csvOf(3) {
		t.Errorf("the file is %q, %v", text, err)
	}
}

// A Redis that hangs does not hold whoever has had enough of waiting.
func TestCtrlCWhileRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if r := kooworker(t, csvOf(10), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	waiting := startProcess(t, nil, "batch", "wait", "b-1", "--redis-url", server.URL())
	elapse(time.Second) // until it waits
	server.Freeze()
	defer server.Thaw()
	showing := startProcess(t, nil, "batch", "show", "b-1", "--redis-url", server.URL())
	elapse(500 * time.Millisecond) // until it hangs
	for name, p := range map[string]*process{"wait": waiting, "show": showing} {
		start := time.Now()
		if code := p.end(t, syscall.SIGINT); code != exitFailed || time.Since(start) > 2*time.Second || !strings.Contains(p.log(), "interrupted") {
			t.Errorf("%s: exit %d after %s: %s", name, code, time.Since(start), p.log())
		}
	}
}

func TestTwoBatchesOfOneDeviceBalance(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	sim.Bind("user-0", simulator.Device{DeviceID: "device-0"})
	for _, id := range []string{"b-1", "b-2"} {
		kooworker(t, csvOf(1), "enqueue", "unbind", "--file", "-", "--batch", id, "--redis-url", server.URL())
	}
	startWorker(t, server, url)
	sum := map[string]float64{}
	for _, id := range []string{"b-1", "b-2"} {
		if r := kooworker(t, "", "batch", "wait", id, "--timeout", "30s", "--redis-url", server.URL()); r.code != exitDone {
			t.Fatalf("%+v", r)
		}
		for key, n := range counts(show(t, server, id)) {
			sum[key] += n
		}
	}
	if diff := cmp.Diff(map[string]float64{"total": 2, "succeeded": 1, "already_gone": 1}, sum); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUsersAreOffboarded(t *testing.T) {
	t.Parallel()
	usersAreOffboarded(t, 30)
}

func usersAreOffboarded(t *testing.T, users int) {
	t.Helper()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	csv, bound := offboardFile(sim, users)
	startWorker(t, server, url, "--concurrency", "32")
	r := kooworker(t, csv, "enqueue", "offboard", "--file", "-", "--wait", "--wait-timeout", "4m", "--json", "--redis-url", server.URL())
	if r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	id, _ := r.object(t)["batch"].(string)
	none := (users + 12) / 13 // of each 13 one has no devices
	want := map[string]float64{"total": float64(users + len(bound)), "succeeded": float64(users + len(bound) - none), "already_gone": float64(none)}
	if diff := cmp.Diff(want, counts(show(t, server, id))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range users {
		if left := sim.Devices(fmt.Sprintf("user-%d", i)); len(left) != 0 {
			t.Errorf("user-%d still has %v", i, left)
		}
	}
	for _, line := range kooworker(t, "", "batch", "receipts", id, "--redis-url", server.URL()).lines(t) {
		if line["kind"] == string(tasks.KindDeviceUnbind) {
			device, _ := line["device"].(map[string]any)
			if device["deviceId"] != line["target"] {
				t.Errorf("%v: device %v", line["target"], line["device"])
			}
			delete(bound, fmt.Sprint(line["user_id"], " ", line["target"]))
		}
	}
	if len(bound) != 0 {
		t.Errorf("no receipt for %d devices, such as %v", len(bound), bound)
	}
}

// offboardFile binds 0 to 12 devices to each user.
func offboardFile(sim *simulator.Simulator, users int) (csv string, bound map[string]bool) {
	var b strings.Builder
	b.WriteString("user_id\n")
	bound = map[string]bool{}
	for i := range users {
		user := fmt.Sprintf("user-%d", i)
		fmt.Fprintln(&b, user)
		for range i % 13 {
			device := sim.Bind(user, simulator.Device{})
			bound[user+" "+device.DeviceID] = true
		}
	}
	return b.String(), bound
}

func TestOneUserIsOffboardedWithoutABatch(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	for range 3 {
		sim.Bind("u", simulator.Device{})
	}
	startWorker(t, server, url)
	r := kooworker(t, "", "enqueue", "offboard", "--user-id", "u", "--json", "--redis-url", server.URL())
	if r.code != exitDone || r.object(t)["kind"] != "user:offboard" {
		t.Fatalf("%+v", r)
	}
	redistest.Eventually(t, 20*time.Second, "no device is left", func() bool { return len(sim.Devices("u")) == 0 })
}

func TestAUserWhoCannotBeOffboardedIsDead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,target=stuck")
	sim.Bind("u", simulator.Device{DeviceID: "stuck"})
	sim.Bind("u", simulator.Device{DeviceID: "loose"})
	startWorker(t, server, url)
	r := kooworker(t, "", "enqueue", "offboard", "--user-id", "u", "--batch", "b-1", "--wait", "--wait-timeout", "1m", "--redis-url", server.URL())
	if r.code != exitPartial {
		t.Fatalf("%+v", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": 3, "succeeded": 1, "dead": 2}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	reasons := kooworker(t, "", "dead", "stats", "--batch", "b-1", "--json", "--redis-url", server.URL()).object(t)["by_reason"]
	if diff := cmp.Diff(map[string]any{"forbidden": 1.0, "still_bound": 1.0}, reasons); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Mended, and replayed: it unbinds what is bound.
	sim.ClearFaults()
	redistest.Eventually(t, 20*time.Second, "the off-boarding is replayed", func() bool {
		return kooworker(t, "", "dead", "replay", "--reason", "still_bound", "--json", "--redis-url", server.URL()).object(t)["done"] == 1.0
	})
	redistest.Eventually(t, 20*time.Second, "nothing is bound", func() bool { return len(sim.Devices("u")) == 0 })
	redistest.Eventually(t, 20*time.Second, "it balances", func() bool {
		diff := cmp.Diff(map[string]float64{"total": 4, "succeeded": 3, "dead": 1}, counts(show(t, server, "b-1")))
		return diff == "" // the first unbind of the device is still dead
	})
}

// A device that was bound again after its unbind was ordered stays, unless the
// order says otherwise.
func TestTheReplayOfAnOldUnbindGivesWayToANewBinding(t *testing.T) {
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
			t.Fatalf("%+v; want it dead first", r)
		}
		sim.Bind("u", simulator.Device{DeviceID: id}) // again, just now
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
		t.Errorf("bound: %v; want the guarded one", left)
	}
}
