package fleet

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// join runs a worker's view until stop is called, or the test ends.
func join(t *testing.T, server *redistest.Server) (f *Fleet, stop func()) {
	t.Helper()
	f = New(server.Client(), zap.NewNop())
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return f, stop
}

// knows returns a condition: f counts so many live workers.
func knows(f *Fleet, want int) func() bool {
	return func() bool { return f.Snapshot().Live == want }
}

func TestSnapshot_CountsLiveWorkers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := join(t, server)
	two, stop := join(t, server)
	redistest.Eventually(t, 10*time.Second, "the first worker counts two", knows(one, 2))
	redistest.Eventually(t, 10*time.Second, "the second worker counts two", knows(two, 2))
	stop()
	redistest.Eventually(t, heartbeatTTL/2, "a worker that stopped deregisters", knows(one, 1))

	// A worker that dies does not deregister.
	if err := server.Client().ZAdd(t.Context(), workersKey, redis.Z{Score: float64(time.Now().UnixMilli()), Member: "dead"}).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, "a dead worker still counts", knows(one, 2))
	redistest.Eventually(t, 10*time.Second, "a dead worker counts no more", knows(one, 1))
}

func TestSnapshot_StaysWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := join(t, server)
	join(t, server)
	redistest.Eventually(t, 10*time.Second, "two workers are alive", knows(one, 2))
	server.Kill()
	one.heartbeat(t.Context())
	if live := one.Snapshot().Live; live != 2 {
		t.Errorf("%d workers without Redis; want 2, the last known number", live)
	}
	server.Restart()
	redistest.Eventually(t, 10*time.Second, "two workers are alive with Redis back", knows(one, 2))
}

// newsOf waits until a worker knows news that match.
func newsOf(t *testing.T, f *Fleet, what string, matches func(gate.News) bool) {
	t.Helper()
	redistest.Eventually(t, 10*time.Second, what, func() bool {
		news := f.Snapshot().News
		return news != nil && matches(*news)
	})
}

func TestTell_OthersLearnFailuresAndSuccesses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := join(t, server)
	two, _ := join(t, server)
	now := time.Now()
	failed := func(kind gate.Kind, user string) gate.Failure {
		return gate.Failure{Kind: kind, Class: tasks.Upstream, User: user, At: now}
	}
	one.Tell(gate.News{Failures: []gate.Failure{failed(gate.Unbind, "a user"), failed(gate.Release, "b")}})
	near := func(at time.Time) bool { return at.Sub(now).Abs() < time.Second }
	newsOf(t, two, "the other worker learns of the failures", func(n gate.News) bool {
		return len(n.Failures) == 2 && n.Failures[0].Kind == gate.Unbind && n.Failures[0].User == "a user" &&
			n.Failures[0].Class == tasks.Upstream && near(n.Failures[0].At) && n.Failures[1].Kind == gate.Release
	})
	// A refused task is no success: the failures before it stay.
	two.Tell(gate.News{Successes: []gate.Success{
		{Kind: gate.Unbind, Reason: tasks.Forbidden, User: "c", Began: time.Now(), Ended: time.Now()},
	}})
	newsOf(t, one, "a refused task is told", func(n gate.News) bool { return len(n.Successes) == 1 && len(n.Failures) == 2 })
	two.Tell(gate.News{Successes: []gate.Success{
		{Kind: gate.Unbind, Reason: tasks.OK, User: "d", Began: time.Now(), Ended: time.Now()},
	}})
	newsOf(t, one, "a success removes the failures of its kind", func(n gate.News) bool {
		return len(n.Successes) == 2 && len(n.Failures) == 1 && n.Failures[0].Kind == gate.Release
	})
	// A new worker knows it all: an outage does not end with a deployment.
	three, _ := join(t, server)
	newsOf(t, three, "a new worker learns everything", func(n gate.News) bool { return len(n.Successes) == 2 && len(n.Failures) == 1 })
}

// What could not be told while Redis was away is told afterwards.
func TestTell_SurvivesAnOutageOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	one, _ := join(t, server)
	redistest.Eventually(t, 10*time.Second, "the worker is known", knows(one, 1))
	server.Kill()
	one.Tell(gate.News{Failures: []gate.Failure{{Kind: gate.List, Class: tasks.Misrouted, User: "u", At: time.Now()}}})
	one.heartbeat(t.Context())
	server.Restart()
	newsOf(t, one, "the failure is told", func(n gate.News) bool { return len(n.Failures) == 1 && n.Failures[0].Class == tasks.Misrouted })
}

// Neither the failures in Redis nor the news that wait grow without end.
func TestTell_IsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := New(server.Client(), zap.NewNop())
	for i := range 10 * maxFailures {
		f.Tell(gate.News{Failures: []gate.Failure{{Kind: gate.Unbind, Class: tasks.Upstream, User: strconv.Itoa(i), At: time.Now()}}})
		if i%maxUnsent == 0 {
			f.heartbeat(t.Context())
		}
	}
	if n := len(f.unsent.Failures); n > maxUnsent {
		t.Errorf("%d failures wait; want at most %d", n, maxUnsent)
	}
	f.heartbeat(t.Context())
	if n := server.Client().ZCard(t.Context(), failuresKey+"unbind").Val(); n != maxFailures {
		t.Errorf("%d failures are kept; want %d", n, maxFailures)
	}
}
