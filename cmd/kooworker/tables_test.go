package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// update makes the golden tests write their files: go test ./cmd/kooworker -run Golden -update.
var update = flag.Bool("update", false, "write the golden files")

// Every table is readable on narrow terminals, and none is wider than 100 columns. Not
// parallel: the process has one variable COLUMNS.
func TestTables_Golden(t *testing.T) {
	t.Setenv("COLUMNS", "")
	for name, ids := range map[string]tableIDs{
		"short": {user: "user-%d", device: "device-%d", lock: "lock-%d@102", batch: "deletions-%d"},
		"usual": {user: "105a7a91c3%022x", device: "17754060059207793%02d", lock: "78e41c7e-db02-4d55-85b3-%012x@102", batch: "0193541c-8f7a-7d3e-9c4b-%012x"},
		"long": {
			user: strings.Repeat("u", 126) + "%02d", device: strings.Repeat("d", 62) + "%02d", lock: strings.Repeat("l", 62) + "%02d@12345678",
			batch: strings.Repeat("b", 62) + "%02d",
		},
	} {
		server := redistest.Start(t)
		ids.fill(t, server)
		for _, args := range []string{
			"batch list", "batch show " + fmt.Sprintf(ids.batch, 0), "batch show " + fmt.Sprintf(ids.batch, 2), "dead list", "dead stats", "locks list", "history --user-id " + fmt.Sprintf(ids.user, 0),
		} {
			if args == "dead stats" && name != "short" {
				continue // it shows no ids
			}
			words := strings.Fields(args)
			file := name + "-" + strings.Join(words[:2], "-")
			if words[0] == "history" {
				file = name + "-history"
			}
			if words[1] == "show" {
				file += words[2][len(words[2])-1:]
			}
			t.Run(file, func(t *testing.T) { checkTable(t, file, append(words, "--redis-url", server.URL())...) })
		}
	}
}

// The queues, and who has paused them, at every width.
func TestTables_GoldenQueues(t *testing.T) {
	t.Setenv("COLUMNS", "")
	server := redistest.Start(t)
	rdb := server.Client()
	for order, queue := range map[pauses.Order]string{
		{By: "alice@ops-1", Reason: "wrong export of the CRM; see INC-4711, and ask the team before you resume it", For: 2 * time.Hour}: tasks.QueueUnbind,
		{By: "bob@" + strings.Repeat("h", 60)}: tasks.QueueWebhook,
	} {
		if err := pauses.Set(t.Context(), rdb, []string{queue}, order); err != nil {
			t.Fatal(err)
		}
	}
	rdb.Set(t.Context(), asynqx.PausedKey("release-bulk"), time.Now().Unix(), 0) // as asynqmon does
	checkTable(t, "queue-list", "queue", "list", "--redis-url", server.URL())
}

// checkTable compares the output of a command, at three widths, with its golden file.
func checkTable(t *testing.T, file string, args ...string) {
	t.Helper()
	var got strings.Builder
	for _, width := range []int{40, 80, 120} {
		t.Setenv("COLUMNS", fmt.Sprint(width))
		r := kooworker(t, "", args...)
		if r.code != exitDone {
			t.Fatalf("%v: %+v; want exit 0", args, r)
		}
		addGolden(t, &got, width, r.stdout)
	}
	compareGolden(t, file, got.String())
}

// addGolden adds what was printed for a terminal of some width to what is compared.
func addGolden(t *testing.T, got *strings.Builder, width int, printed string) {
	t.Helper()
	fmt.Fprintf(got, "== %d columns ==\n", width)
	for line := range strings.Lines(printed) {
		line = strings.TrimSuffix(line, "\n")
		isID := !strings.Contains(line, " ")
		if n := utf8.RuneCountInString(line); n > 100 || n > width && !isID {
			t.Errorf("a line of %d columns where %d are wanted: %q", n, width, line)
		}
		fmt.Fprintln(got, clockTime.ReplaceAllStringFunc(line, func(s string) string { return "2026-11-22 14:05:31"[:len(s)] }))
	}
}

// compareGolden compares with a golden file, or writes it.
func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", "tables", file+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s; -update writes it (-want +got):\n%s", path, diff)
	}
}

// clockTime matches what differs from run to run.
var clockTime = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?`)

// tableIDs are formats of ids.
type tableIDs struct{ user, device, lock, batch string }

// fill makes batches, dead letters and locks.
func (ids tableIDs) fill(t *testing.T, server *redistest.Server) {
	t.Helper()
	rdb := server.Client()
	unbind := func(i int) tasks.DeviceUnbind {
		return tasks.DeviceUnbind{UserID: fmt.Sprintf(ids.user, i), DeviceID: fmt.Sprintf(ids.device, i)}
	}
	release := func(i int) tasks.LockRelease {
		return tasks.LockRelease{UserID: fmt.Sprintf(ids.user, i), LockID: fmt.Sprintf(ids.lock, i)}
	}

	// Three batches: one of which nothing is done, one of which everything is, and one
	// in which there is something of everything.
	outcomes := [][]tasks.Outcome{
		{},
		{tasks.Succeeded, tasks.Succeeded, tasks.Succeeded},
		{tasks.Succeeded, tasks.AlreadyGone, tasks.Superseded, tasks.Dead, tasks.Discarded},
	}
	for b, done := range outcomes {
		id, lines := fmt.Sprintf(ids.batch, b), "user_id,device_id\n"
		size := max(len(done), 2)
		for i := range size {
			lines += fmt.Sprintf("%s,%s\n", unbind(i).UserID, unbind(i).DeviceID)
		}
		if b == 2 {
			lines += fmt.Sprintf("%s,%s\n,bad\n", unbind(0).UserID, unbind(0).DeviceID)
		}
		kooworker(t, lines, "enqueue", "unbind", "--file", "-", "--batch", id, "--redis-url", server.URL())
		var receipts []tasks.Receipt
		for i, outcome := range done {
			receipts = append(receipts, tasks.Receipt{BatchRef: tasks.BatchRef{Batch: id, Index: int64(i)}, Kind: tasks.KindDeviceUnbind, UserID: unbind(i).UserID, Target: unbind(i).DeviceID, Outcome: outcome, Reason: tasks.OK})
		}
		if _, _, err := batch.NewStore(rdb).RecordOutcomes(t.Context(), receipts); err != nil {
			t.Fatal(err)
		}
	}

	batchID := fmt.Sprintf(ids.batch, 2)
	dead := deadletter.NewStore(rdb)
	for _, l := range []deadletter.Letter{
		{ID: tasks.BatchIdentity(batchID, unbind(3)), Kind: tasks.KindDeviceUnbind, UserID: unbind(3).UserID, Target: unbind(3).DeviceID, Batch: batchID, Error: "forbidden: HTTP 403, code 13000410: no permission"},
		{ID: tasks.Identity(unbind(5)), Kind: tasks.KindDeviceUnbind, UserID: unbind(5).UserID, Target: unbind(5).DeviceID, Attempts: 8, Error: "upstream: HTTP 503"},
		{ID: tasks.Identity(release(6)), Kind: tasks.KindLockRelease, UserID: release(6).UserID, Target: release(6).LockID, Error: "rejected: HTTP 400, code 13000777: 没有权限，请联系管理员"},
		{ID: "5f1e7c52-1b0a-4cf6-9a3e-3f0f4f0b8a11", Kind: tasks.KindDeviceUnbind, Payload: fmt.Appendf(nil, `{"user_id":%q}`, unbind(7).UserID), Error: "undecodable: v is missing; want 1"},
		{ID: "device:wipe:x", Kind: "device:wipe", Error: `unknown_kind: unknown kind "device:wipe": want one of [device:unbind lock:release user:offboard lock:sweep batch:webhook]`},
		{ID: tasks.Identity(tasks.BatchWebhook{BatchID: batchID}), Kind: tasks.KindBatchWebhook, Target: batchID, Error: "rejected: HTTP 404"},
	} {
		reason, _, _ := strings.Cut(l.Error, ":")
		l.Reason, l.DeadAt = tasks.Reason(reason), time.Now()
		l.Attempts = max(l.Attempts, 1)
		if err := dead.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}

	receipts := []tasks.Receipt{
		{Kind: tasks.KindDeviceUnbind, UserID: unbind(0).UserID, Target: unbind(0).DeviceID, Outcome: tasks.Dead, Reason: tasks.Forbidden, Source: tasks.FromSingle},
		{
			Kind: tasks.KindDeviceUnbind, UserID: unbind(0).UserID, Target: unbind(0).DeviceID, Outcome: tasks.Cancelled,
			Reason: tasks.CalledOff + ": the list of the users was the one of last month", Source: tasks.FromDeadLetter,
		},
		{Kind: tasks.KindLockRelease, UserID: unbind(0).UserID, Target: release(0).LockID, Outcome: tasks.Superseded, Reason: tasks.Outdated, Source: tasks.FromSingle},
		{Kind: tasks.KindUserOffboard, UserID: unbind(0).UserID, Outcome: tasks.Succeeded, Reason: tasks.OK, Source: tasks.FromOffboarding},
	}
	if err := history.NewStore(rdb).Record(t.Context(), receipts, time.Hour); err != nil {
		t.Fatal(err)
	}

	var tracked []locks.TrackRequest
	for i := range 3 {
		tracked = append(tracked, locks.TrackRequest{UserID: release(i).UserID, LockID: release(i).LockID, ExpiresIn: time.Duration(i+1) * time.Minute})
	}
	if _, err := locks.NewStore(rdb).Track(t.Context(), tracked); err != nil {
		t.Fatal(err)
	}
}
