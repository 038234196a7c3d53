package monitoring_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// nasty are texts that strangers may send.
var nasty = []string{
	`<script>alert(1)</script>`, `"quoted" 'and' \back`, "right\u202eto\u202cleft \u2066isolate\u2069", "zero\u200bwidth\u200djoined\ufeff", "nul\x00bell\x07esc\x1b[31m",
	strings.Repeat("long ", 2000), strings.Repeat("\u202e", 10_000), "not utf-8: \xff\xfe",
}

// eachString calls f with every string of a JSON value, and with the names of members.
func eachString(value any, f func(string)) {
	switch v := value.(type) {
	case string:
		f(v)
	case []any:
		for _, item := range v {
			eachString(item, f)
		}
	case map[string]any:
		for name, member := range v {
			f(name)
			eachString(member, f)
		}
	}
}

// wantHarmless fails for a string with characters that are not seen, or of no end.
func wantHarmless(t *testing.T, where string, value any) {
	t.Helper()
	const most = 20_000 // 2,000 marks, each spelled out, and what says how many there are more
	eachString(value, func(text string) {
		for _, r := range strings.ReplaceAll(text, "\r\n", "\n") {
			if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
				t.Errorf("%.100s shows U+%04X as it is: %.100q", where, r, text)
				return
			}
		}
		if n := utf8.RuneCountInString(text); n > most {
			t.Errorf("%.100s shows %d characters; want at most %d", where, n, most)
		}
		// The UI parses a payload that is JSON, and shows its strings.
		var inner any
		if strings.HasPrefix(text, "{") && json.Unmarshal([]byte(text), &inner) == nil {
			wantHarmless(t, where+", within its payload", inner)
		}
	})
}

// Texts in every place where strangers can put one, in every list and in the details.
func TestRead_TextFromStrangers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	client := asynq.NewClientFromRedisClient(b.rdb)
	for i, text := range nasty {
		valid := strings.ToValidUTF8(text, "?")
		b.park(deadletter.Letter{
			ID: fmt.Sprint("letter-", i, valid), Kind: tasks.Kind("kind " + valid), Queue: valid, Payload: []byte(text), UserID: valid, Target: valid, Batch: valid,
			Reason: tasks.Reason(valid), Error: valid, DeadAt: time.Now(),
		})
		payload, err := json.Marshal(map[string]any{"user_id": text, text: []string{text}})
		if err != nil {
			t.Fatal(err)
		}
		for j, data := range [][]byte{[]byte(text), payload} {
			id := fmt.Sprint("task-", i, "-", j, valid)
			if _, err := client.EnqueueContext(t.Context(), asynq.NewTask("kind "+valid, data), asynqx.TaskOptions(tasks.QueueUnbind, id, time.Time{})...); err != nil {
				t.Fatal(err)
			}
		}
	}
	shown, cut := 0, 0
	for _, list := range []string{"queues/dead-letter/retry_tasks", "queues/unbind/pending_tasks"} {
		answer := b.get(list + "?size=100")
		wantHarmless(t, list, answer)
		all, _ := answer["tasks"].([]any)
		for _, task := range all {
			task, _ := task.(map[string]any)
			queue, _ := task["queue"].(string)
			id, _ := task["id"].(string)
			if strings.Contains(id, "SHA-256") { // nothing can be done with it
				b.want(b.api(operator, http.MethodPost, (&url.URL{Path: "queues/" + queue + "/retry_tasks/" + id + ":run"}).String()), http.StatusNotFound)
				cut++
				continue
			}
			one := b.get("queues/" + queue + "/tasks/" + id) // as the UI builds the URL
			wantHarmless(t, "task "+id, one)
			if one["id"] != id {
				t.Errorf("task %.60q is shown as %.60q; want the same ID", id, one["id"])
			}
			shown++
		}
	}
	if all, long := 3*len(nasty), 3*2; shown != all-long || cut != long {
		t.Errorf("%d tasks are shown, and %d with a part of their IDs; want %d and %d", shown, cut, all-long, long)
	}
	w := b.api(viewer, http.MethodGet, "queues/unbind/pending_tasks")
	if strings.Contains(w.Body.String(), "<") || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%s: %.300s; want JSON in which < is escaped", w.Header().Get("Content-Type"), w.Body)
	}
	for _, endpoint := range []string{"queues", "queues/dead-letter", "queue_stats", "servers", "scheduler_entries", "redis_info"} {
		wantHarmless(t, endpoint, b.get(endpoint))
	}
}

// A dead letter shows why it died, and what it was about, as objects and not as a
// string in a string.
func TestRead_PayloadOfLetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	at := time.Date(2026, 11, 27, 12, 0, 0, 5, time.UTC)
	payload, err := tasks.Encode(tasks.DeviceUnbind{UserID: "u", DeviceID: "d"}, tasks.Intent{EnqueuedAt: at})
	if err != nil {
		t.Fatal(err)
	}
	b.park(deadletter.Letter{
		ID: "x", Kind: tasks.KindDeviceUnbind, Queue: "unbind-bulk", Payload: payload, UserID: "u", Target: "d", Batch: "b", Reason: tasks.Forbidden, Error: "forbidden: no",
		Attempts: 3, EnqueuedAt: at, DeadAt: at,
	})
	text, _ := b.get("queues/dead-letter/tasks/x")["payload"].(string)
	const want = `{"reason":"forbidden","error":"forbidden: no","attempts":3,"dead_at":"2026-11-27T12:00:00Z","enqueued_at":"2026-11-27T12:00:00Z",` +
		`"user_id":"u","target":"d","batch":"b","queue":"unbind-bulk","task":{"device_id":"d","enqueued_at":"2026-11-27T12:00:00.000000005Z","user_id":"u","v":1}}`
	if text != want {
		t.Errorf("the payload is shown as\n%s; want\n%s", text, want)
	}
}

// The answer about one task is asynqmon's, for a task that asynqmon can answer about.
func TestRead_TaskAsAsynqmonDoes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	plain := asynqmon.New(asynqmon.Options{RootPath: root, RedisConnOpt: connection{b.rdb}})
	for _, state := range []string{"pending", "scheduled", "retry", "archived", "completed"} {
		b.put(tasks.QueueUnbind, state, "x-"+state)
		target := "queues/unbind/tasks/x-" + state
		w := httptest.NewRecorder()
		plain.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, apiDir+target, nil))
		var want map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &want); err != nil {
			t.Fatal(err)
		}
		got := b.get(target)
		for _, answer := range []map[string]any{want, got} {
			delete(answer, "result")      // asynqmon calls no bytes "non-printable bytes"
			delete(answer, "ttl_seconds") // it passes
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("a task that is %s (-asynqmon +ours):\n%s", state, diff)
		}
	}
	b.want(b.api(viewer, http.MethodGet, "queues/unbind/tasks/none"), http.StatusNotFound, "not there any more")
	b.want(b.api(viewer, http.MethodGet, "queues/none/tasks/none"), http.StatusNotFound, "not there any more")
}

type connection struct{ rdb any }

func (c connection) MakeRedisClient() any { return c.rdb }

// The IDs of tasks hold the names of users, which KooDrive lets be any visible ASCII.
func TestAct_IDsThatAreNoPath(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := []string{"device:unbind:a/b?c%41#$&\\~2f~:d", "a b", ".", "..", "right\u202eto\u200bleft", "x:run", `<script>"'`, "用户"}
	for _, id := range all {
		b.put(tasks.QueueUnbind, "retry", id)
	}
	tasksShown, _ := b.get("queues/unbind/retry_tasks?size=100")["tasks"].([]any)
	if len(tasksShown) != len(all) {
		t.Fatalf("%d tasks are shown; want %d", len(tasksShown), len(all))
	}
	for _, task := range tasksShown {
		task, _ := task.(map[string]any)
		id, _ := task["id"].(string)
		// A browser parses the UI's URL, and sends the path.
		u, err := url.Parse("http://localhost" + apiDir + "queues/unbind/retry_tasks/" + id + ":run")
		if err != nil {
			t.Fatal(err)
		}
		b.want(b.serve(operator, http.MethodPost, u.RequestURI()), http.StatusNoContent)
	}
	for _, id := range all {
		if state := b.state(tasks.QueueUnbind, id); state != "pending" {
			t.Errorf("task %q is %s; want it pending", id, state)
		}
	}
}

// A page of a list is never longer than those of the UI, since asynq reads it by one script.
func TestRead_PagesAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 120 {
		b.put(tasks.QueueUnbind, "pending", fmt.Sprint("x-", i))
	}
	for query, want := range map[string]int{"": 20, "?size=50": 50, "?size=1000000": 100, "?size=100&page=2": 20, "?size=-5&page=-5": 1, "?size=x&page=y": 20, "?size=100&page=99999999999999": 0, "?size=100&page=9223372036854775807": 0} {
		if all, _ := b.get("queues/unbind/pending_tasks" + query)["tasks"].([]any); len(all) != want {
			t.Errorf("%s: %d tasks; want %d", query, len(all), want)
		}
	}
}
