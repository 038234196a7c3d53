package worker_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

// standIn is a KooDrive for tests that shares no code with the simulator. It records
// the requests, and answers as a test says.
type standIn struct {
	*httptest.Server

	mu       sync.Mutex
	answer   func(target string, nth int) reply
	requests []request
	deletes  map[string]int // how often each target was deleted for good
	seen     map[string]int // how often each target was asked for
}

type request struct {
	method, path, userID, target string
	header                       http.Header
}

type reply struct {
	status int
	header map[string]string
	body   string
}

var (
	done      = reply{200, nil, `{"code":0,"msg":"success"}`}
	gone      = reply{404, nil, `{"code":13000309,"msg":"resource doesn't exist"}`}
	trouble   = reply{500, nil, `{"code":13000201,"msg":"internal error"}`}
	forbidden = reply{403, nil, `{"code":13000410,"msg":"no permission"}`}
	throttled = reply{429, map[string]string{"Retry-After": "1"}, `{"error_code":"APIG.0308","error_msg":"slow down"}`}
	html404   = reply{404, nil, `<html><body>404 Not Found</body></html>`}
)

func newStandIn(t *testing.T, answer func(target string, nth int) reply) *standIn {
	t.Helper()
	s := &standIn{answer: answer, deletes: map[string]int{}, seen: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target := r.Header.Get("X-Backup-Lock-Id")
	if target == "" {
		target = r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	}
	s.mu.Lock()
	s.seen[target]++
	rep := s.answer(target, s.seen[target])
	s.requests = append(s.requests, request{r.Method, r.URL.EscapedPath(), r.Header.Get("X-User-Id"), target, r.Header.Clone()})
	if rep.status == 200 {
		s.deletes[target]++
	}
	s.mu.Unlock()
	for name, value := range rep.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(rep.status)
	_, _ = w.Write([]byte(rep.body))
}

func (s *standIn) setAnswer(answer func(target string, nth int) reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *standIn) snapshot() (requests []request, deletes, seen map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.requests...), maps.Clone(s.deletes), maps.Clone(s.seen)
}

// always gives every request the same answer.
func always(r reply) func(string, int) reply {
	return func(string, int) reply { return r }
}

func unbindTask(i int) tasks.Task {
	return tasks.DeviceUnbind{UserID: fmt.Sprintf("user-%d", i/3), DeviceID: fmt.Sprintf("device-%d", i)}
}

func releaseTask(i int) tasks.Task {
	return tasks.LockRelease{UserID: fmt.Sprintf("user-%d", i), LockID: fmt.Sprintf("lock-%d@102", i)}
}
