//go:build browser

package browsertest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestBrowser_LogIn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	b := s.open("alice")
	b.see("/")
	b.want(".who", "alice, operator")
	if b.challenged() == 0 {
		t.Error("the dashboard did not ask for a password")
	}
	stranger := s.openWith("alice", "a guess")
	if status := stranger.visit("/"); status != 401 {
		t.Errorf("with a wrong password: status %d; want 401", status)
	}
	if stranger.count("nav") > 0 {
		t.Error("a stranger sees the menu")
	}
	stranger.forgive() // the browser logs the 401
}

// deadLetters gives the stage n dead letters of each user: KooDrive forbids to unbind their devices.
// It then allows it again.
func (s *stage) deadLetters(batchID string, of map[string]int) {
	s.t.Helper()
	s.fault("forbidden,call=unbind")
	before := len(s.letters(deadletter.Filter{}))
	s.unbind(batchID, of)
	for _, n := range of {
		before += n
	}
	s.awaitLetters(before)
	s.koodrive.ClearFaults()
}

func TestBrowser_ReplayWhatMatches(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.startWorker()
	s.deadLetters("", map[string]int{"u-1": 4, "u-2": 3})
	s.fault("invalid-parameters,call=unbind,user=u-1")
	s.unbind("", map[string]int{"u-1": 2})
	s.awaitLetters(9)
	s.koodrive.ClearFaults()

	b := s.open("alice")
	b.see("/dead")
	b.want("#counts", "9 dead letters")
	b.choose("#reason", "forbidden")
	b.write("#user-id", "u-1")
	b.click("form.filter button")
	b.want("caption", "reason forbidden, user u-1")
	if n := b.count("tbody tr"); n != 4 {
		t.Fatalf("%d letters are shown; want the 4 of u-1 that are forbidden", n)
	}
	b.click(`a[href*="/dead/replay"]`)
	b.want("main", "4 dead letters match")
	b.write("#reason", "role was granted")
	b.click("main form button")
	if path := b.path(); !strings.HasPrefix(path, "/jobs/") {
		t.Fatalf("the browser is at %s; want the job's page", path)
	}
	b.mark()
	b.await("#job .state", "done")
	b.await("#job", "4")
	if !b.isMarked() {
		t.Error("the page was loaded again; want one that updates itself")
	}
	b.want("main", "ordered by alice: role was granted")
	redistest.Eventually(t, soon, "the 4 are carried out", func() bool { return len(s.letters(deadletter.Filter{})) == 5 })
	if u1, u2 := s.devices("u-1"), s.devices("u-2"); u1 != 2 || u2 != 3 {
		t.Errorf("u-1 has %d devices, u-2 has %d; want 2 (invalid) and 3 (not replayed)", u1, u2)
	}
	s.wantChange(b, "replay of dead letters ordered", "role was granted")
}

// wantChange looks for a change in the audit log and on its page.
func (s *stage) wantChange(b *tab, action, reason string) {
	s.t.Helper()
	for _, e := range s.changes() {
		if e.Action != action || e.Reason != reason || e.By != "alice" || e.Error != "" {
			continue
		}
		b.see("/audit")
		rows := evaluate[[]string](b, `[...document.querySelectorAll("tbody tr")].map(row => row.innerText)`)
		for _, row := range rows {
			if strings.Contains(row, "alice") && strings.Contains(row, action) && strings.Contains(row, reason) {
				return
			}
		}
		s.t.Errorf("the audit page shows %q; want %s by alice: %s", rows, action, reason)
		return
	}
	s.t.Errorf("the audit log has %+v; want %s by alice: %s", s.changes(), action, reason)
}

func TestBrowser_Discard(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.startWorker()
	s.deadLetters("deletions", map[string]int{"u-1": 3, "u-2": 2})
	b := s.open("alice")
	b.see("/dead?user_id=u-2")
	b.click(`a[href*="/dead/discard"]`)
	b.want("main", "2 dead letters match")
	b.want("main", "never carried out")
	b.write("#reason", "account is back")
	b.click("main form button")
	b.await("#job .state", "done")
	s.awaitLetters(3)
	if stats := s.batch("deletions"); stats.Discarded != 2 || stats.Dead != 3 {
		t.Errorf("%+v; want 2 discarded, 3 dead", stats)
	}
	s.wantChange(b, "discard of dead letters ordered", "account is back")
	b.see("/user?user_id=u-2")
	b.want("main", "discarded")
}

func TestBrowser_CancelBatch(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.unbind("wrong-file", map[string]int{"u-1": 30})
	b := s.open("alice")
	b.see("/batches")
	b.click(`a[href="/batches/wrong-file"]`)
	b.click(`a[href="/batches/wrong-file/cancel"]`)
	b.want("main", "30 queued tasks")
	b.write("#reason", "wrong list")
	b.click("main form button")
	b.want(".notice", "Cancelled")
	b.await("#batch", "cancelled")
	b.await("#batch .state", "Done")
	s.startWorker()
	redistest.Eventually(t, soon, "all are cancelled", func() bool { return s.batch("wrong-file").Cancelled == 30 })
	if n := s.devices("u-1"); n != 30 {
		t.Errorf("u-1 has %d devices; want all 30", n)
	}
	s.wantChange(b, "batch cancelled", "wrong list")
}

func TestBrowser_BatchFinishes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.unbind("accounts", map[string]int{"u-1": 40})
	b := s.open("bob")
	b.see("/batches/accounts")
	b.want("#batch", "0 of 40 have ended")
	b.mark()
	s.startWorker()
	b.await("#batch .state", "Done")
	b.want("#batch", "40 of 40 have ended")
	if !b.isMarked() {
		t.Error("the page was loaded again; want one that updates itself")
	}
}

func TestBrowser_HoldBatch(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.unbind("accounts", map[string]int{"u-1": 20})
	b := s.open("alice")
	b.see("/batches/accounts")
	b.write("#hold-reason", "legal hold 42")
	b.click(`form[action$="/hold"] button`)
	b.want("#batch", "By alice: legal hold 42")
	s.startWorker()
	s.unbind("", map[string]int{"u-2": 5})
	redistest.Eventually(t, soon, "what is not held is carried out", func() bool { return s.devices("u-2") == 0 })
	if n := s.devices("u-1"); n != 20 {
		t.Errorf("u-1 has %d devices; want all 20, because the batch is held", n)
	}
	b.write("#release-reason", "hold is lifted")
	b.click(`form[action$="/release"] button`)
	b.await("#batch .state", "Done")
	if n := s.devices("u-1"); n != 0 {
		t.Errorf("u-1 has %d devices; want none", n)
	}
	s.wantChange(b, "batch held", "legal hold 42")
	s.wantChange(b, "batch released", "hold is lifted")
}

func TestBrowser_PauseAndResume(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	b := s.open("alice")
	b.see("/queues")
	b.choose("#pause-queue", "unbind")
	b.choose("#pause-for", "4h")
	b.write("#pause-reason", "KooDrive is upgraded")
	b.click(`form[action$="/pause"] button`)
	b.want(".notice", "Paused")
	b.want("#queues", "KooDrive is upgraded")
	paused, err := pauses.Read(t.Context(), s.rdb)
	if err != nil {
		t.Fatal(err)
	}
	if groups := paused.Groups(); len(groups) != 1 || groups[0].By != "alice" || time.Until(groups[0].Until) > 4*time.Hour {
		t.Fatalf("%+v; want the queue unbind paused by alice for 4 hours", groups)
	}
	b.see("/")
	b.want("main", "KooDrive is upgraded")
	s.startWorker()
	s.unbind("", map[string]int{"u-1": 3})
	b.see("/queues")
	b.choose("#resume-queue", "unbind")
	b.write("#resume-reason", "upgrade is done")
	if n := s.devices("u-1"); n != 3 {
		t.Errorf("u-1 has %d devices; want 3, because the queue is paused", n)
	}
	b.click(`form[action$="/resume"] button`)
	b.want(".notice", "Resumed")
	redistest.Eventually(t, soon, "the tasks are carried out", func() bool { return s.devices("u-1") == 0 })
	s.wantChange(b, "queues paused", "KooDrive is upgraded")
	s.wantChange(b, "queues resumed", "upgrade is done")
}

// track puts locks into KooDrive and the ledger, some of which are stale.
func (s *stage) track(user string, live, stale int) {
	s.t.Helper()
	var requests []locks.TrackRequest
	for i := range live + stale {
		expires := time.Now().Add(time.Hour)
		if i < stale {
			expires = time.Now().Add(-time.Duration(10+i) * time.Minute)
		}
		id := fmt.Sprintf("78e41c7e-db02-4d55-85b3-8153e4fe%04d@102", i)
		s.koodrive.AddLock(user, id, time.Now().Add(time.Hour))
		requests = append(requests, locks.TrackRequest{UserID: user, LockID: id, ExpiresAt: expires})
	}
	if _, err := locks.NewStore(s.rdb).Track(s.t.Context(), requests); err != nil {
		s.t.Fatal(err)
	}
}

func TestBrowser_Sweep(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.track("u-1", 12, 3)
	b := s.open("alice")
	b.see("/locks")
	b.click(`button[name="dry_run"]`)
	b.want(".notice", "3 of 15 locks are stale. A sweep would release 3 of them")
	s.startWorker()
	if n := len(s.koodrive.Locks("u-1")); n != 15 {
		t.Fatalf("u-1 has %d locks; want 15: a dry run releases nothing", n)
	}
	b.choose("#source", "ledger")
	b.write("#sweep-reason", "backups are stuck")
	b.click(`form[action$="/sweep"] button`)
	b.want(".notice", "A sweep is enqueued")
	redistest.Eventually(t, soon, "the stale locks are released", func() bool { return len(s.koodrive.Locks("u-1")) == 12 })
	b.see("/locks")
	b.want("main", "The last complete sweep of each source")
	s.wantChange(b, "sweep ordered", "backups are stuck")
}

func TestBrowser_User(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.startWorker()
	s.deadLetters("deletions", map[string]int{"u-1": 2})
	s.unbind("", map[string]int{"u-1": 1})
	s.track("u-1", 1, 0)
	redistest.Eventually(t, soon, "the device is gone", func() bool { return s.devices("u-1") == 2 })
	b := s.open("bob")
	b.see("/user")
	b.write("#user-id", "u-1")
	b.click("main form button")
	b.want("main", "2 of this user's tasks failed for good")
	b.want("main", "succeeded")
	b.want("main", "Locks of this user in the ledger")
	b.click(`a[href*="/dead?user_id=u-1"]`)
	if n := b.count("tbody tr"); n != 2 {
		t.Errorf("%d dead letters are shown; want the 2 of the user", n)
	}
	b.click(`a[href^="/batches/deletions"]`)
	b.want("h1", "deletions")
}

// A replay goes on when the dashboard dies, and so does its page.
func TestBrowser_DashboardIsKilledDuringReplay(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.startWorker()
	const n = 40
	s.deadLetters("", map[string]int{"u-1": n})
	b := s.open("alice")
	b.see("/dead/replay?reason=forbidden")
	b.want("main", fmt.Sprint(n, " dead letters match"))
	b.write("#reason", "role was granted")
	b.write("#rate", "10")
	b.click("main form button")
	b.mark()
	redistest.Eventually(t, soon, "some are replayed", func() bool { return s.devices("u-1") <= n-5 })
	s.dashboard.kill()
	b.await("#away", "does not answer just now")
	if left := s.devices("u-1"); left == 0 {
		t.Error("the replay was over before the dashboard was killed; want it to be half done")
	}
	b.forgive() // the browser logs that there is no connection
	s.restartDashboard()
	b.await("#job .state", "done")
	if !b.isMarked() {
		t.Error("the page was loaded again; want one that goes on by itself")
	}
	if text := b.text("#away"); text != "" {
		t.Errorf("the page still says %q", text)
	}
	b.forgive()
	redistest.Eventually(t, soon, "all are carried out", func() bool { return s.devices("u-1") == 0 })
	if calls := unbinds(s.koodrive); calls != 2*n {
		t.Errorf("%d calls of unbind; want %d: one that was forbidden and one of the replay for each", calls, 2*n)
	}
}

func unbinds(k *simulator.Simulator) int64 { return int64(k.Stats().Requests[simulator.CallUnbind]) }

// A page goes on by itself when Redis was away.
func TestBrowser_RedisIsAway(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.unbind("accounts", map[string]int{"u-1": 10})
	b := s.open("bob")
	b.see("/batches/accounts")
	b.mark()
	s.redis.Kill()
	b.await("#away", "does not answer just now")
	b.forgive() // the browser logs the 503
	s.redis.Restart()
	s.startWorker()
	b.await("#batch .state", "Done")
	b.forgive()
	if !b.isMarked() {
		t.Error("the page was loaded again; want one that goes on by itself")
	}
}
