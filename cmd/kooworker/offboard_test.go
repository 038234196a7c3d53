package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// holdLocks adds locks, "<user> <lock>" each, to KooDrive and to the ledger. life is
// their time until expiry in the ledger.
func holdLocks(t *testing.T, server *redistest.Server, sim *simulator.Simulator, life string, held ...string) {
	t.Helper()
	csv := "user_id,lock_id\n"
	for _, l := range held {
		user, lock, _ := strings.Cut(l, " ")
		sim.AddLock(user, lock, time.Now().Add(time.Hour))
		csv += user + "," + lock + "\n"
	}
	r := kooworker(t, csv, "locks", "track", "--file", "-", "--expires-in", life, "--json", "--redis-url", server.URL())
	if r.code != exitDone || r.object(t)["total"] != float64(len(held)) {
		t.Fatalf("%+v; want exit 0, and %d locks", r, len(held))
	}
}

// listLocks returns the locks in the ledger, of one user or of all.
func listLocks(t *testing.T, server *redistest.Server, args ...string) map[string]bool {
	t.Helper()
	locks := map[string]bool{}
	for _, l := range kooworker(t, "", append([]string{"locks", "list", "--json", "--redis-url", server.URL()}, args...)...).lines(t) {
		locks[fmt.Sprint(l["user_id"], " ", l["lock_id"])] = true
	}
	return locks
}

const live, expired = "1h", "1ms"

func TestOffboard_ReleasesLocks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	// The first release of user-2 is that of the sweep. It is slow, so that the release of
	// the off-boarding overtakes it.
	sim, url := startSimulator(t, "slow,call=release,user=user-2,delay=4s,times=1")
	bind := func(user string, devices ...string) {
		for _, id := range devices {
			sim.Bind(user, simulator.Device{DeviceID: id})
		}
	}
	bind("user-1", "d-1", "d-2")
	bind("user-3", "d-3")
	bind("user-1!", "d-4")
	holdLocks(t, server, sim, expired, "user-2 swept@102")
	sweep := kooworker(t, "", "locks", "sweep", "--grace", "1ms", "--max-share", "1", "--json", "--redis-url", server.URL())
	swept, _ := sweep.object(t)["batch"].(string)
	if sweep.code != exitDone || swept == "" {
		t.Fatalf("%+v; want exit 0 and a batch", sweep)
	}
	holdLocks(t, server, sim, live, "user-1 live@102", "user-2 live", "user-1! other@102", "user-10 d-1")
	holdLocks(t, server, sim, expired, "user-1 d-1", "user-10 stale@102")
	// KooDrive does not have this lock any more.
	if r := kooworker(t, "", "locks", "track", "--user-id", "user-1", "--lock-id", "lost@7", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	startWorker(t, server, url)
	file := filepath.Join(t.TempDir(), "users.csv")
	if err := os.WriteFile(file, []byte("user_id\nuser-1\nuser-2\nuser-3\nuser-4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := kooworker(t, "", "enqueue", "offboard", "--file", file, "--batch", "b-1", "--wait", "--wait-timeout", "1m", "--redis-url", server.URL())
	if r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	want := map[string]string{
		"user:offboard user-1 ": "succeeded", "user:offboard user-2 ": "succeeded", "user:offboard user-3 ": "succeeded", "user:offboard user-4 ": "already_gone",
		"device:unbind user-1 d-1": "succeeded", "device:unbind user-1 d-2": "succeeded", "device:unbind user-3 d-3": "succeeded",
		"lock:release user-1 live@102": "succeeded", "lock:release user-1 d-1": "succeeded", "lock:release user-1 lost@7": "already_gone",
		"lock:release user-2 live": "succeeded", "lock:release user-2 swept@102": "succeeded or already_gone",
	}
	got := map[string]string{}
	for _, r := range kooworker(t, "", "batch", "receipts", "b-1", "--redis-url", server.URL()).lines(t) {
		name := fmt.Sprint(r["kind"], " ", r["user_id"], " ", r["target"])
		if got[name] = fmt.Sprint(r["outcome"]); strings.HasSuffix(name, "swept@102") && strings.Contains(want[name], got[name]) {
			got[name] = want[name]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
	if balance := counts(show(t, server, "b-1")); balance["total"] != float64(len(want)) {
		t.Errorf("%v; want %d", balance, len(want))
	}

	// The release of the sweep succeeds as well, whichever of the two came first.
	if r := kooworker(t, "", "batch", "wait", swept, "--timeout", "30s", "--redis-url", server.URL()); r.code != exitDone {
		t.Errorf("the sweep: %+v; want exit 0", r)
	}
	if balance := counts(show(t, server, swept)); balance["succeeded"]+balance["already_gone"]+balance["superseded"] != 1 {
		t.Errorf("the sweep: %v; want one release with a good outcome", balance)
	}
	if n := sim.Stats().Released; n != 4 {
		t.Errorf("%d locks were released; want 4, each once", n)
	}

	for _, user := range []string{"user-1", "user-2", "user-3", "user-4"} {
		if devices, locks, known := sim.Devices(user), sim.Locks(user), listLocks(t, server, "--user-id", user); len(devices)+len(locks)+len(known) != 0 {
			t.Errorf("%s still has the devices %v and the locks %v, and the ledger has %v; want none", user, devices, locks, known)
		}
	}
	others := map[string]bool{"user-1! other@102": true, "user-10 d-1": true, "user-10 stale@102": true}
	if diff := cmp.Diff(others, listLocks(t, server)); diff != "" {
		t.Errorf("the ledger (-want +got):\n%s", diff)
	}
	if len(sim.Devices("user-1!")) != 1 || len(sim.Locks("user-1!")) != 1 || len(sim.Locks("user-10")) != 2 {
		t.Errorf("other users have %v, %v, %v; want theirs untouched", sim.Devices("user-1!"), sim.Locks("user-1!"), sim.Locks("user-10"))
	}
}

// A lock that cannot be released makes the off-boarding dead, in a batch or not,
// until the cause is fixed.
func TestOffboard_StuckLockIsDead(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"alone": nil, "in a batch": {"--batch", "b-1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			sim, url := startSimulator(t, "forbidden,target=stuck@102")
			sim.Bind("u", simulator.Device{DeviceID: "d"})
			holdLocks(t, server, sim, live, "u stuck@102", "u loose@102")
			startWorker(t, server, url)
			if r := kooworker(t, "", append([]string{"enqueue", "offboard", "--user-id", "u", "--redis-url", server.URL()}, args...)...); r.code != exitDone {
				t.Fatalf("%+v; want exit 0", r)
			}
			why := map[string]string{}
			redistest.Eventually(t, 30*time.Second, "both are dead", func() bool {
				for _, l := range kooworker(t, "", "dead", "list", "--json", "--redis-url", server.URL()).lines(t) {
					why[fmt.Sprint(l["kind"], " ", l["target"], " ", l["reason"])] = fmt.Sprint(l["error"])
				}
				return len(why) == 2
			})
			if _, dead := why["lock:release stuck@102 forbidden"]; !dead || !strings.Contains(why["user:offboard  still_bound"], "0 devices are bound and 1 known locks are held after 1 rounds, 1 of them") {
				t.Errorf("%v; want the release dead as forbidden, and the off-boarding as still_bound", why)
			}
			if left := listLocks(t, server); len(left) != 1 || !left["u stuck@102"] || len(sim.Devices("u")) != 0 || len(sim.Locks("u")) != 1 {
				t.Errorf("left: %v, %v, %v; want the stuck lock alone", left, sim.Devices("u"), sim.Locks("u"))
			}

			sim.ClearFaults()
			redistest.Eventually(t, 20*time.Second, "the off-boarding is replayed", func() bool {
				return kooworker(t, "", "dead", "replay", "--reason", "still_bound", "--json", "--redis-url", server.URL()).object(t)["done"] == 1.0
			})
			redistest.Eventually(t, 20*time.Second, "no lock is left", func() bool { return len(sim.Locks("u"))+len(listLocks(t, server)) == 0 })
		})
	}
}

// A worker is killed after KooDrive has released the locks and before it has answered.
// The off-boarding waits until another worker finds the locks gone.
func TestOffboard_SurvivesWorkerKill(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "slow,call=release,delay=1h")
	const n = 6
	var held []string
	for i := range n {
		held = append(held, fmt.Sprintf("u l-%d@102", i))
	}
	holdLocks(t, server, sim, live, held...)
	victim := startWorker(t, server, url)
	if r := kooworker(t, "", "enqueue", "offboard", "--user-id", "u", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	redistest.Eventually(t, 20*time.Second, "all are released", func() bool { s := sim.Stats(); return s.InFlight == n && s.Released == n })
	victim.end(t, syscall.SIGKILL)
	sim.ClearFaults()
	startWorker(t, server, url)
	if r := kooworker(t, "", "batch", "wait", "b-1", "--timeout", "2m", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": n + 1, "succeeded": 1, "already_gone": n}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if left := listLocks(t, server); len(left)+len(sim.Locks("u")) != 0 {
		t.Errorf("left: %v, %v; want no lock", left, sim.Locks("u"))
	}
}

func TestOffboard_UsersFromFile(t *testing.T) {
	t.Parallel()
	testOffboarding(t, 30)
}

// testOffboarding off-boards users who have 0 to 12 devices each.
func testOffboarding(t *testing.T, users int) {
	t.Helper()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	csv, bound := offboardFile(sim, users)
	startWorker(t, server, url, "--concurrency", "32")
	r := kooworker(t, csv, "enqueue", "offboard", "--file", "-", "--wait", "--wait-timeout", "4m", "--json", "--redis-url", server.URL())
	if r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	id, _ := r.object(t)["batch"].(string)
	none := (users + 12) / 13 // one user of 13 has no devices
	want := map[string]float64{"total": float64(users + len(bound)), "succeeded": float64(users + len(bound) - none), "already_gone": float64(none)}
	if diff := cmp.Diff(want, counts(show(t, server, id))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range users {
		if left := sim.Devices(fmt.Sprintf("user-%d", i)); len(left) != 0 {
			t.Errorf("user-%d still has %v; want no device", i, left)
		}
	}
	for _, line := range kooworker(t, "", "batch", "receipts", id, "--redis-url", server.URL()).lines(t) {
		if line["kind"] == string(tasks.KindDeviceUnbind) {
			device, _ := line["device"].(map[string]any)
			if device["deviceId"] != line["target"] {
				t.Errorf("%v: device %v; want the device of the target", line["target"], line["device"])
			}
			delete(bound, fmt.Sprint(line["user_id"], " ", line["target"]))
		}
	}
	if len(bound) != 0 {
		t.Errorf("no receipt for %d devices: %v; want one for each", len(bound), bound)
	}
}

// offboardFile binds 0 to 12 devices to each user, and returns a file of the users.
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

func TestOffboard_OneUserWithoutBatch(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	for range 3 {
		sim.Bind("u", simulator.Device{})
	}
	startWorker(t, server, url)
	r := kooworker(t, "", "enqueue", "offboard", "--user-id", "u", "--json", "--redis-url", server.URL())
	if r.code != exitDone || r.object(t)["kind"] != "user:offboard" {
		t.Fatalf("%+v; want exit 0 and kind user:offboard", r)
	}
	redistest.Eventually(t, 20*time.Second, "no device is left", func() bool { return len(sim.Devices("u")) == 0 })
}

func TestOffboard_StuckDeviceIsDead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t, "forbidden,target=stuck")
	sim.Bind("u", simulator.Device{DeviceID: "stuck"})
	sim.Bind("u", simulator.Device{DeviceID: "loose"})
	startWorker(t, server, url)
	r := kooworker(t, "", "enqueue", "offboard", "--user-id", "u", "--batch", "b-1", "--wait", "--wait-timeout", "1m", "--redis-url", server.URL())
	if r.code != exitPartial {
		t.Fatalf("%+v; want exit 3", r)
	}
	if diff := cmp.Diff(map[string]float64{"total": 3, "succeeded": 1, "dead": 2}, counts(show(t, server, "b-1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	reasons := kooworker(t, "", "dead", "stats", "--batch", "b-1", "--json", "--redis-url", server.URL()).object(t)["by_reason"]
	if diff := cmp.Diff(map[string]any{"forbidden": 1.0, "still_bound": 1.0}, reasons); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// After the cause is fixed and the task is replayed, it unbinds what is still bound.
	sim.ClearFaults()
	redistest.Eventually(t, 20*time.Second, "the off-boarding is replayed", func() bool {
		return kooworker(t, "", "dead", "replay", "--reason", "still_bound", "--json", "--redis-url", server.URL()).object(t)["done"] == 1.0
	})
	redistest.Eventually(t, 20*time.Second, "nothing is bound", func() bool { return len(sim.Devices("u")) == 0 })
	redistest.Eventually(t, 20*time.Second, "the batch balances", func() bool {
		diff := cmp.Diff(map[string]float64{"total": 4, "succeeded": 3, "dead": 1}, counts(show(t, server, "b-1")))
		return diff == "" // the first unbind of the stuck device is still dead
	})
}

// KooDrive lists ids that no producer may give. They are unbound as they are.
func TestOffboard_IDsThatOnlyKooDriveGives(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"alone": nil, "in a batch": {"--batch", "b-1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			sim, url := startSimulator(t)
			for _, id := range []string{"good1", "AA:BB", "a/b c?d=%2F", `"quoted"`} {
				sim.Bind("u", simulator.Device{DeviceID: id})
			}
			startWorker(t, server, url)
			if r := kooworker(t, "", append([]string{"enqueue", "offboard", "--user-id", "u", "--redis-url", server.URL()}, args...)...); r.code != exitDone {
				t.Fatalf("%+v; want exit 0", r)
			}
			redistest.Eventually(t, 30*time.Second, "nothing is bound", func() bool { return len(sim.Devices("u")) == 0 })
		})
	}
}
