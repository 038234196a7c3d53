package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// Redis is stopped, and then killed, under load.
func TestWorker_LogOfAnOutage(t *testing.T) {
	t.Parallel()
	for name, leave := range outages(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testLogOfOutage(t, leave, 12*time.Second)
		})
	}
}

// outages are the ways in which Redis may leave, by name, each with the way back.
func outages(t *testing.T) map[string]func(*redistest.Server) (comeBack func()) {
	t.Helper()
	return map[string]func(*redistest.Server) func(){
		"frozen": func(s *redistest.Server) func() { s.Freeze(); return s.Thaw },
		"killed": func(s *redistest.Server) func() { s.Kill(); return s.Restart },
		"full":   func(s *redistest.Server) func() { setMaxMemory(t, s, "1"); return func() { setMaxMemory(t, s, "0") } },
		// Redis answers to the worker's login with an error.
		"password changed": func(s *redistest.Server) func() {
			rdb := s.Client()
			give := func(password string) {
				if err := rdb.Do(t.Context(), "ACL", "SETUSER", "w", "resetpass", ">"+password).Err(); err != nil {
					t.Fatal(err)
				}
			}
			give("new")
			if err := rdb.ClientKillByFilter(t.Context(), "USER", "w").Err(); err != nil {
				t.Fatal(err)
			}
			return func() { give("old") }
		},
	}
}

func setMaxMemory(t *testing.T, s *redistest.Server, limit string) {
	t.Helper()
	if err := s.Client().ConfigSet(t.Context(), "maxmemory", limit).Err(); err != nil {
		t.Fatal(err)
	}
}

// maxOutageLines is how many lines a worker may write about one outage.
const maxOutageLines = 20

// testLogOfOutage counts the lines that a busy worker writes from the beginning of an outage
// until all that it had in flight is done.
func testLogOfOutage(t *testing.T, leave func(*redistest.Server) (comeBack func()), outage time.Duration) {
	t.Helper()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always", "--user", "w", "on", ">old", "~*", "&*", "+@all")
	api := newFakeAPI(t, 50*time.Millisecond)
	rdb := server.Client()
	p := newProducer(t, rdb)
	worker := startWorker(t, server, api.URL, "--concurrency", "16", "--log-successes=false", "--redis-url", "redis://w:old@"+server.Addr())
	logOf(t, worker)
	p.enqueueMany(t, 1000)
	stop := p.stream(t.Context(), 50)
	redistest.Eventually(t, 30*time.Second, "the worker is busy", func() bool { n, _ := api.executed(); return n > 100 })

	before := len(worker.log())
	comeBack := leave(server)
	letTimePass(outage)
	comeBack()
	redistest.Eventually(t, 60*time.Second, "the log says that Redis is back", func() bool { return strings.Contains(worker.log(), "Redis is back") })
	stop()
	a := awaitOutcomes(t, rdb, p, api, 2*time.Minute)
	letTimePass(12 * time.Second) // for what the end of the outage leaves behind
	log := worker.log()[before:]
	if a.lost != 0 || a.dead != 0 || a.done != a.acknowledged {
		t.Errorf("%+v; want all done, none lost and none dead", a)
	}
	var messages []string
	for line := range strings.Lines(log) {
		messages = append(messages, checkReadable(t, line))
	}
	t.Logf("%d lines:\n%s", len(messages), log)
	if len(messages) > maxOutageLines {
		t.Errorf("%d lines about an outage of %s; want at most %d", len(messages), outage, maxOutageLines)
	}
	for _, want := range []string{"Redis does not answer or cannot serve", "Redis is back"} {
		if n := len(slices.DeleteFunc(slices.Clone(messages), func(m string) bool { return !strings.HasPrefix(m, want) })); n != 1 {
			t.Errorf("%d lines begin with %q; want 1", n, want)
		}
	}
}

// unreadable matches what only the authors of libraries can read.
var unreadable = regexp.MustCompile(`INTERNAL_ERROR|UNKNOWN:|redis eval error|goroutine \d|\.go:\d|\bm=\+|0x[0-9a-f]{4}|%!`)

// checkReadable checks that people can read a log line, and returns its message.
func checkReadable(t *testing.T, line string) string {
	t.Helper()
	const maxLine = 350
	var fields struct{ Level, TS, Msg string }
	if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Level == "" || fields.TS == "" || fields.Msg == "" {
		t.Errorf("%s%v; want a JSON line with level, ts and msg", line, err)
	}
	if found := unreadable.FindString(line); found != "" {
		t.Errorf("%q in a log line; want none: %s", found, line)
	}
	if len(line) > maxLine {
		t.Errorf("a line of %d characters; want at most %d: %s", len(line), maxLine, line)
	}
	return fields.Msg
}
