//go:build browser

package browsertest

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// What needs a stage that is full shares one, because to fill it takes a while.
func TestBrowser_FullStage(t *testing.T) { //nolint:tparallel // one part after the other, on one stage
	t.Parallel()
	s := newStage(t)
	job := s.fill()
	t.Run("Pages", func(t *testing.T) { s.with(t).testPages(job) })
	t.Run("ViewerChangesNothing", func(t *testing.T) { s.with(t).testViewer(job) })
	t.Run("Keyboard", func(t *testing.T) { s.with(t).testKeyboard() })
}

// fullLetters is how many dead letters a stage has that is full.
const fullLetters = 59

// fill gives the stage what an operator finds on a day with trouble: an hour of history, batches
// in each state, dead letters, a paused queue, locks with a sweep, jobs and changes. It
// returns the ID of a job.
func (s *stage) fill() (job string) {
	s.t.Helper()
	s.startWorker()
	users := func(from, n, devices int) map[string]int {
		out := map[string]int{}
		for i := range n {
			out[fmt.Sprint("u-", from+i)] = devices
		}
		return out
	}
	s.fault("forbidden,call=unbind,user=u-102*")
	s.fault("invalid-parameters,call=unbind,user=u-1031*")
	s.unbind("deletions-2026-10", users(10100, 30, 2))
	s.unbind("deletions-2026-09", users(10200, 28, 2))
	s.unbind("", users(10310, 4, 1))
	s.awaitLetters(fullLetters + 1)
	s.track("u-10150", 40, 4)
	s.track("u-10201", 3, 0)
	s.kooworker("", "locks", "sweep")
	redistest.Eventually(s.t, soon, "the locks are released", func() bool { return len(s.koodrive.Locks("u-10150")) == 40 })
	s.track("u-10151", 0, 2)

	b := s.open("alice")
	b.see("/dead/discard?user_id=u-10310")
	b.write("#reason", "the account was closed by hand")
	b.click("main form button")
	b.await("#job .state", "done")
	b.see("/dead/replay?reason=forbidden&user_id=u-10201")
	b.write("#reason", "the role of u-10201 was granted")
	b.click("main form button")
	job = strings.TrimPrefix(b.path(), "/jobs/")
	s.awaitLetters(fullLetters) // those that are replayed die again

	quota, err := simulator.ParseQuota("bucket:6/s,burst=6,tell=text")
	if err == nil {
		err = s.koodrive.AddQuota(quota)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.unbind("accounts-2026-11", users(10500, 20, 4), "--due-by", time.Now().Add(48*time.Hour).Format(time.RFC3339))
	b.see("/batches/accounts-2026-11")
	b.write("#hold-reason", "legal hold 42")
	b.click(`form[action$="/hold"] button`)
	s.unbind("deletions-2026-11", users(10600, 300, 3), "--due-by", time.Now().Add(time.Hour).Format(time.RFC3339))
	s.unbind("wrong-file-2026-11", users(10900, 15, 2))
	s.kooworker("", "batch", "cancel", "wrong-file-2026-11", "--reason", "wrong file")

	b.see("/queues")
	b.choose("#pause-queue", "offboard")
	b.choose("#pause-for", "4h")
	b.write("#pause-reason", "legal review of the new terms")
	b.click(`form[action$="/pause"] button`)
	s.history()
	return job
}

// history writes an hour of samples, of which the charts are made, as a dashboard that runs for an
// hour has them. They end with what the stage is like when it is full.
func (s *stage) history() {
	s.t.Helper()
	const every = 10 * time.Second
	begin := time.Now().Add(-time.Hour)
	var succeeded, gone, dead float64
	var lines []any
	for i := range int(time.Hour / every) {
		at, limit := float64(i), 40.0
		if i > 280 { // the quota was lowered
			limit = 6
		}
		rate := min(limit, 31+8*math.Sin(at/35)+3*math.Sin(at*1.7))
		if i > 150 && i < 165 { // KooDrive is away
			rate = 0
		}
		succeeded, gone, dead = succeeded+rate*9, gone+rate*0.8, dead+rate*0.2
		backlog := max(900, 9400-succeeded/11)
		lines = append(lines, fmt.Sprintf(
			`{"v":1,"at":%d,"backlog":{"unbind":%.0f,"release":%.0f},"dead":%.0f,"workers":3,"calls":{"unbind":{"used":%.2f,"limit":%.2f,"refused":%.2f}},"finished":{"succeeded":%.0f,"already_gone":%.0f,"dead":%.0f}}`,
			begin.Add(time.Duration(i)*every).UnixMilli(), backlog, backlog/12, 20+dead, rate, limit, max(0, (rate-37)/4), succeeded, gone, dead))
	}
	const key = "{kooworker:fleet}:overview:samples"
	_, err := s.rdb.TxPipelined(s.t.Context(), func(pipe redis.Pipeliner) error {
		pipe.Del(s.t.Context(), key)
		pipe.RPush(s.t.Context(), key, lines...)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// letterOf returns a dead letter of a user.
func (s *stage) letterOf(user string) deadletter.Letter {
	s.t.Helper()
	letters := s.letters(deadletter.Filter{UserID: user})
	if len(letters) == 0 {
		s.t.Fatalf("%s has no dead letter", user)
	}
	return letters[0]
}
