//go:build chaos && linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

func TestChaos_CrashLoop(t *testing.T) { testCrashLoop(t, 10_000, 3*time.Minute) }

// crashingFleet is some workers that are started again whenever one dies. Worker i
// calls KooDrive under the path /i. So the stand-in knows who calls, and can kill the
// worker that calls for the poison.
type crashingFleet struct {
	t       *testing.T
	server  *redistest.Server
	url     string
	mu      sync.Mutex
	workers []*process
	exited  []chan struct{}
	poisons int // workers that the poison has killed
}

const poison = "poison"

// newCrashingFleet starts workers whose calls take 50 to 500 ms.
func newCrashingFleet(t *testing.T, server *redistest.Server, api *fakeAPI, n int) *crashingFleet {
	t.Helper()
	f := &crashingFleet{t: t, server: server, workers: make([]*process, n), exited: make([]chan struct{}, n)}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/"+poison) {
			caller, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
			f.poisoned(caller)
			return
		}
		timer := time.NewTimer(50*time.Millisecond + rand.N(450*time.Millisecond)) //nolint:gosec // no secret
		defer timer.Stop()
		select {
		case <-timer.C:
			api.ServeHTTP(w, r)
		case <-r.Context().Done(): // the caller is dead, so nothing is done
		}
	}))
	f.url = front.URL
	f.supervise()
	t.Cleanup(func() {
		for i := range f.workers {
			f.kill(i)
			<-f.exited[i]
		}
		front.Close()
	})
	return f
}

// supervise starts the workers that are not running.
func (f *crashingFleet) supervise() {
	for i := range f.workers {
		if f.exited[i] != nil {
			select {
			case <-f.exited[i]:
			default:
				continue
			}
		}
		p := startProcess(f.t, []string{"KOODRIVE_TOKEN=t0ken"}, "worker", "--redis-url", f.server.URL(),
			"--koodrive-url", f.url+"/"+strconv.Itoa(i), "--concurrency", "8")
		exited := make(chan struct{})
		go func() { _ = p.cmd.Wait(); close(exited) }()
		f.mu.Lock()
		f.workers[i], f.exited[i] = p, exited
		f.mu.Unlock()
	}
}

func (f *crashingFleet) kill(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.workers[i].cmd.Process.Kill() // SIGKILL
}

// poisoned kills the worker that makes this call, and waits until it is dead: a call
// that is answered would not be poison.
func (f *crashingFleet) poisoned(caller string) {
	i, err := strconv.Atoi(caller)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	f.poisons++
	exited := f.exited[i]
	f.mu.Unlock()
	f.kill(i)
	<-exited
}

// testCrashLoop kills one of five workers every two seconds for a while, with the
// poison and n other tasks.
func testCrashLoop(t *testing.T, n int, length time.Duration) {
	t.Helper()
	server := redistest.Start(t)
	rdb := server.Client()
	api := newFakeAPI(t, 0)
	p := newProducer(t, rdb)
	fleet := newCrashingFleet(t, server, api, 5)
	if _, err := p.client.Unbind(t.Context(), tasks.DeviceUnbind{UserID: "u", DeviceID: poison}); err != nil {
		t.Fatal(err)
	}
	start, kills := time.Now(), 0
	stop := p.stream(t.Context(), int(float64(n)/length.Seconds()))
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	for tick := 0; ; tick++ {
		letTimePass(100 * time.Millisecond)
		fleet.supervise()
		if time.Since(start) < length {
			if tick%20 == 0 {
				fleet.kill(rand.N(5)) //nolint:gosec // which one dies is no secret
				kills++
			}
			continue
		}
		stop()
		left := infoOf(t, inspector, tasks.QueueUnbind).Size
		if left == 0 {
			break
		}
		if time.Since(start) > length+8*time.Minute {
			t.Fatalf("still not empty: %d tasks are left", left)
		}
	}
	t.Logf("%d kills; the poison killed %d workers; empty %.0f s after the last kill", kills, fleet.poisons, (time.Since(start) - length).Seconds())
	for letter, err := range deadletter.NewStore(rdb).List(context.Background(), deadletter.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if letter.Target != poison || letter.Reason != tasks.Crashed {
			t.Errorf("%s is dead: %s; want only the poison dead, as crashed", letter.Target, letter.Error)
		}
	}
	a := awaitOutcomes(t, rdb, p, api, time.Minute)
	if a.lost != 0 || a.done != a.acknowledged || a.dead != 1 {
		t.Errorf("%s; want all done, and the poison dead", fmt.Sprintf("%+v", a))
	}
}
