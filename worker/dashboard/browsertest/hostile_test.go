//go:build browser

package browsertest

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// hostile is what a stranger may write into a user's ID, a device's name or an error.
const hostile = `"'><script>window.hacked=1</script><img src=x onerror="window.hacked=1">` + "\u202eexe.txt\u2066\u200b\u200d\ufeff\u0007"

// Whatever strangers have written: the pages show it, it does nothing, and nothing in it is
// invisible or turns the direction of the text.
func TestBrowser_HostileText(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	long := hostile + strings.Repeat("x", 10_000)
	letter := deadletter.Letter{
		ID: "device:unbind:" + hostile, Kind: tasks.KindDeviceUnbind, Queue: tasks.QueueUnbind, UserID: hostile, Target: hostile,
		Payload: []byte(`{"v":1,"user_id":` + quote(hostile) + `,"device_id":` + quote(hostile) + `}`),
		Reason:  tasks.Forbidden, Error: "forbidden: " + long, Attempts: 1, DeadAt: time.Now(),
	}
	longest := letter
	longest.ID, longest.UserID, longest.Target = "device:unbind:"+long, long, long
	longest.Payload = []byte(`{"v":1,"user_id":` + quote(long) + `,"device_id":` + quote(long) + `}`)
	store := deadletter.NewStore(s.rdb)
	for _, l := range []deadletter.Letter{letter, longest} {
		if err := store.Park(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	s.startWorker() // it parks the letters where asynqmon shows them
	receipt := tasks.Receipt{
		Kind: tasks.KindDeviceUnbind, UserID: hostile, Target: hostile, Outcome: tasks.Succeeded, Reason: tasks.OK, At: time.Now(),
		Device: &tasks.Device{DeviceName: long}, Source: tasks.FromSingle,
	}
	if err := history.NewStore(s.rdb).Record(t.Context(), []tasks.Receipt{receipt}, time.Hour); err != nil {
		t.Fatal(err)
	}

	b := s.open("alice")
	user := url.QueryEscape(hostile)
	for _, v := range []view{
		{path: "/"}, {path: "/dead"}, {path: "/dead?user_id=" + user}, {path: "/dead?id=" + url.QueryEscape(letter.ID)},
		{path: "/dead?user_id=" + url.QueryEscape(long)}, {path: "/dead/replay?user_id=" + user}, {path: "/dead/discard?user_id=" + user},
		{path: "/user?user_id=" + user}, {path: "/user?user_id=" + url.QueryEscape(long)}, {path: "/batches?user_id=" + user},
		{path: "/locks?user_id=" + user}, {path: "/audit"}, {path: "/jobs"},
		{path: "/monitoring/queues/dead-letter?status=retry", ready: "table tbody tr"},
	} {
		b.see(v.path)
		if v.ready != "" {
			redistest.Eventually(t, soon, v.path+" is drawn", func() bool { return b.count(v.ready) > 1 })
		}
		b.wantHarmless(v.path)
	}
	// A task's own page in asynqmon, reached as a person does.
	b.do(clickOn("table tbody tr td:nth-child(3)"))
	redistest.Eventually(t, soon, "the task is drawn", func() bool { return b.count("pre") > 0 })
	b.wantHarmless("asynqmon's page of a task")

	// A job for the hostile user finds its letter, and its pages show the filter.
	b.see("/dead/discard?user_id=" + user)
	b.want("main", "1 dead letters match")
	b.write("#reason", "it is <b>hostile</b>")
	b.click("main form button")
	b.await("#job .state", "done")
	b.wantHarmless("the job")
	s.awaitLetters(1)
	for _, path := range []string{"/jobs", "/audit"} {
		b.see(path)
		b.want("main", "it is <b>hostile</b>")
		b.wantHarmless(path)
	}
}

// wantHarmless fails if what strangers wrote has run, or is invisible on the page.
func (b *tab) wantHarmless(where string) {
	b.t.Helper()
	if evaluate[bool](b, `"hacked" in window`) {
		b.t.Errorf("%s: a stranger's script has run", where)
	}
	if found := evaluate[string](b, `(document.body.innerText.match(/[\u202a-\u202e\u2066-\u2069\u200b-\u200f\ufeff\u0007]/g) ?? []).map(c => c.codePointAt(0).toString(16)).join(" ")`); found != "" {
		b.t.Errorf("%s shows the characters %s; want them spelled out", where, found)
	}
	if longest := evaluate[int](b, `Math.max(...document.body.innerText.split(/\s/).map(word => word.length))`); longest > 5000 {
		b.t.Errorf("%s shows a word of %d characters; want it cut", where, longest)
	}
}
