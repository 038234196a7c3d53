package dashboard_test

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// park parks n letters of a reason, about one user, as a worker does at first sight of them.
func (s *site) park(reason tasks.Reason, user string, n int) {
	s.t.Helper()
	ctx, rdb := s.t.Context(), s.redis.Client()
	store := deadletter.NewStore(rdb)
	for i := range n {
		unbind := tasks.DeviceUnbind{UserID: user, DeviceID: fmt.Sprintf("%s-%s-%d", user, reason, i)}
		payload, err := tasks.Encode(unbind, tasks.Intent{})
		if err != nil {
			s.t.Fatal(err)
		}
		l := deadletter.Letter{
			ID: tasks.Identity(unbind), Kind: unbind.Kind(), Queue: tasks.QueueUnbind, Payload: payload, UserID: user, Target: unbind.DeviceID,
			Reason: reason, Error: string(reason) + ": of a test", Attempts: 1, DeadAt: time.Now(),
		}
		if err := store.Park(ctx, l); err != nil {
			s.t.Fatal(err)
		}
		rdb.LRem(ctx, asynqx.PendingKey(tasks.QueueDeadLetter), 1, l.ID)
		rdb.HSet(ctx, asynqx.TaskKey(tasks.QueueDeadLetter, l.ID), asynqx.FieldState, "retry")
		rdb.ZAdd(ctx, asynqx.RetryKey(tasks.QueueDeadLetter), redis.Z{Score: float64(time.Now().Add(10 * 365 * 24 * time.Hour).Unix()), Member: l.ID})
	}
}

func TestDead_FiltersAndPages(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	s.park(tasks.Forbidden, "u-1", 60)
	s.park(tasks.Rejected, "u-2", 3)
	for query, want := range map[string]struct{ rows, next int }{
		"":                                 {50, 1},
		"reason=rejected":                  {3, 0},
		"user_id=u-2":                      {3, 0},
		"user_id=u-3":                      {0, 0},
		"reason=rejected&user_id=u-1":      {0, 0},
		"kind=device:unbind&newer_than=1h": {50, 1},
		"older_than=1h":                    {0, 0},
		"batch=b":                          {0, 0},
	} {
		body := s.get("/dead?" + query).body
		if rows, next := strings.Count(body, `>only this<`), strings.Count(body, `rel="next"`); rows != want.rows || next != want.next {
			t.Errorf("%s: %d letters and %d links to a next page; want %d and %d", query, rows, next, want.rows, want.next)
		}
	}
	first := s.get("/dead?reason=forbidden").body
	_, rest, _ := strings.Cut(first, `rel="next" href="`)
	link, _, _ := strings.Cut(rest, `"`)
	if second := s.get(strings.ReplaceAll(link, "&amp;", "&")).body; strings.Count(second, `>only this<`) != 10 {
		t.Errorf("the second page, %s, has %d letters; want the other 10", link, strings.Count(second, `>only this<`))
	}
	for _, query := range []string{"reason=x", "kind=x", "older_than=x", "older_than=-1h", "dead_before=x", "after=x"} {
		if a := s.get("/dead?" + query); a.code != http.StatusBadRequest {
			t.Errorf("%s: status %d; want 400", query, a.code)
		}
	}
}

func TestDead_Orders(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	s.park(tasks.Forbidden, "u-1", 5)
	s.park(tasks.Rejected, "u-2", 3)
	if a := s.get("/dead/replay?reason=forbidden"); a.code != http.StatusForbidden {
		t.Errorf("the confirmation for a viewer: status %d; want 403", a.code)
	}
	if body := s.do("alice", "GET", "/dead/discard?reason=forbidden", nil).body; !strings.Contains(body, "<strong>5 dead letters</strong>") || !strings.Contains(body, "Discard 5 letters") {
		t.Errorf("the confirmation does not name the 5 letters:\n%s", body)
	}
	for name, form := range map[string]url.Values{
		"no reason why":     {"reason": {"forbidden"}},
		"all, by mistake":   {"why": {"x"}},
		"half a canary":     {"reason": {"forbidden"}, "why": {"x"}, "canary": {"1e9"}},
		"a rate of words":   {"reason": {"forbidden"}, "why": {"x"}, "rate": {"fast"}},
		"a share above one": {"reason": {"forbidden"}, "why": {"x"}, "canary": {"1"}, "min_success": {"200"}},
	} {
		if a := s.do("alice", "POST", "/dead/replay", form); a.code != http.StatusBadRequest {
			t.Errorf("%s: status %d; want 400", name, a.code)
		}
	}
	a := s.do("alice", "POST", "/dead/discard", url.Values{"reason": {"forbidden"}, "why": {"INC-17"}})
	if a.code != http.StatusSeeOther {
		t.Fatalf("%+v; want a redirect to the job", a)
	}
	id := path.Base(a.header.Get("Location"))
	jobs := bulk.NewStore(s.redis.Client())
	redistest.Eventually(t, 20*time.Second, "the job is done", func() bool {
		j, err := jobs.Get(t.Context(), id)
		return err == nil && j.State == bulk.Done && j.Done == 5
	})
	if body := s.get("/jobs/" + id).body; !strings.Contains(body, "reason forbidden") || !strings.Contains(body, "INC-17") || !strings.Contains(body, ">done<") {
		t.Errorf("the page of the job does not say what was done, and why:\n%s", body)
	}
	if body := s.get("/jobs").body; !strings.Contains(body, id) {
		t.Error("the job is not on the list")
	}
	if a := s.do("alice", "POST", "/jobs/"+id+"/stop", url.Values{"why": {"x"}}); a.code != http.StatusBadRequest {
		t.Errorf("stopping a job that has ended: status %d; want 400", a.code)
	}
	if a := s.get("/jobs/nothing"); a.code != http.StatusNotFound {
		t.Errorf("a job that does not exist: status %d; want 404", a.code)
	}
	counts, err := deadletter.NewStore(s.redis.Client()).Counts(t.Context())
	if err != nil || counts.Total != 3 {
		t.Errorf("%d letters are left, %v; want the 3 that did not match", counts.Total, err)
	}
	redistest.Eventually(t, 20*time.Second, "the audit log has the order and the end", func() bool {
		all := s.changes()
		return len(all) == 2 && all[1].Action == "discard of dead letters ordered" && all[1].Subject == "reason forbidden" && all[1].Reason == "INC-17" &&
			all[0].Action == "discard of dead letters done" && all[0].Count == 5 && all[0].By == "alice"
	})
}

// What dies while somebody reads the confirmation is not discarded.
func TestDead_OnlyWhatWasConfirmed(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	s.park(tasks.Forbidden, "u-1", 5)
	body := s.do("alice", "GET", "/dead/discard?reason=forbidden", nil).body
	form := url.Values{"why": {"INC-17"}}
	for _, part := range strings.Split(body, `<input type="hidden" name="`)[1:] {
		name, rest, _ := strings.Cut(part, `" value="`)
		value, _, _ := strings.Cut(rest, `"`)
		form.Set(name, html.UnescapeString(value))
	}
	s.park(tasks.Forbidden, "u-2", 4)
	id := path.Base(s.do("alice", "POST", "/dead/discard", form).header.Get("Location"))
	jobs := bulk.NewStore(s.redis.Client())
	redistest.Eventually(t, 20*time.Second, "the job is done", func() bool {
		j, err := jobs.Get(t.Context(), id)
		return err == nil && j.State == bulk.Done
	})
	if j, err := jobs.Get(t.Context(), id); err != nil || j.Done != 5 {
		t.Errorf("%d letters were discarded, %v; want the 5 that were confirmed", j.Done, err)
	}
}
