package monitoring_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/dashboard/monitoring"
	"github.com/kooworker/kooworker/worker/deadletter"
)

func TestMain(m *testing.M) {
	// go-redis continues to dial for a second after its client was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

const (
	root   = "/koo/monitoring"
	apiDir = root + "/api/"
)

var (
	viewer   = access.User{Name: "vera", Role: access.Viewer}
	operator = access.User{Name: "olga", Role: access.Operator}
)

// bundle is a Handler over a Redis, and what it has told.
type bundle struct {
	t         *testing.T
	rdb       redis.UniversalClient
	inspector *asynq.Inspector
	letters   *deadletter.Store
	handler   *monitoring.Handler

	mu      sync.Mutex
	entries []audit.Entry
	discard func(ctx context.Context, ids []string) (int, error)
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return setupOver(t, redistest.Start(t).Client())
}

func setupOver(t *testing.T, rdb redis.UniversalClient) *bundle {
	t.Helper()
	b := &bundle{t: t, rdb: rdb, inspector: asynq.NewInspectorFromRedisClient(rdb), letters: deadletter.NewStore(rdb)}
	b.discard = func(ctx context.Context, ids []string) (int, error) {
		res, err := b.letters.Discard(ctx, deadletter.Filter{IDs: ids}, deadletter.Options{})
		return res.Done, err
	}
	handler, err := monitoring.New(b.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := handler.Close(); err != nil {
			t.Error(err)
		}
	})
	b.handler = handler
	return b
}

func (b *bundle) config() monitoring.Config {
	return monitoring.Config{
		Redis: b.rdb, RootPath: root,
		Discard: func(ctx context.Context, ids []string) (int, error) { return b.discard(ctx, ids) },
		Audit: func(_ context.Context, e audit.Entry) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.entries = append(b.entries, e)
		},
		Links: []monitoring.Link{{Text: "kooworker", Path: "/koo/"}, {Text: "Dead letters", Path: "/koo/dead"}},
	}
}

// audited returns the entries since the last call.
func (b *bundle) audited() []audit.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	entries := b.entries
	b.entries = nil
	return entries
}

// serve sends a request.
func (b *bundle) serve(user access.User, method, target string, body ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, target, strings.NewReader(strings.Join(body, "")))
	w := httptest.NewRecorder()
	b.handler.Serve(w, r, user)
	return w
}

// api sends a request to an endpoint.
func (b *bundle) api(user access.User, method, endpoint string, body ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.serve(user, method, apiDir+endpoint, body...)
}

// get reads an endpoint that must answer with a JSON object.
func (b *bundle) get(endpoint string) map[string]any {
	b.t.Helper()
	w := b.api(viewer, http.MethodGet, endpoint)
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		b.t.Fatalf("GET %s: %d %s, %v; want a JSON object", endpoint, w.Code, w.Body, err)
	}
	return answer
}

// want compares an answer's status and a part of its text.
func (b *bundle) want(w *httptest.ResponseRecorder, code int, parts ...string) {
	b.t.Helper()
	if w.Code != code {
		b.t.Errorf("the answer is %d: %s; want %d", w.Code, w.Body, code)
	}
	for _, part := range parts {
		if !strings.Contains(w.Body.String(), part) {
			b.t.Errorf("the answer is %q; want %q in it", w.Body, part)
		}
	}
}

// put puts a task into a state of a queue, as asynq keeps it there.
func (b *bundle) put(queue, state, id string) {
	b.t.Helper()
	ctx := b.t.Context()
	_, err := asynq.NewClientFromRedisClient(b.rdb).EnqueueContext(ctx, asynq.NewTask(string(tasks.KindDeviceUnbind), []byte(`{"v":1}`)), asynqx.TaskOptions(queue, id, time.Time{})...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.moveTo(queue, state, id, time.Now().Add(time.Hour))
}

// park parks a dead letter: what a worker does that takes it for the first time.
func (b *bundle) park(l deadletter.Letter) {
	b.t.Helper()
	if l.Reason == "" {
		l.Reason, l.Error = tasks.Forbidden, "forbidden: no"
	}
	if err := b.letters.Park(b.t.Context(), l); err != nil {
		b.t.Fatal(err)
	}
	b.moveTo(tasks.QueueDeadLetter, "retry", l.ID, time.Now().Add(10*365*24*time.Hour))
}

// moveTo moves a pending task to another state.
func (b *bundle) moveTo(queue, state, id string, at time.Time) {
	b.t.Helper()
	_, err := b.rdb.TxPipelined(b.t.Context(), func(p redis.Pipeliner) error {
		ctx := b.t.Context()
		if state == "pending" {
			return nil
		}
		p.LRem(ctx, asynqx.PendingKey(queue), 1, id)
		p.HSet(ctx, asynqx.TaskKey(queue, id), asynqx.FieldState, state)
		if key := strings.TrimSuffix(asynqx.PendingKey(queue), "pending") + state; state == "active" {
			p.LPush(ctx, key, id)
		} else {
			p.ZAdd(ctx, key, redis.Z{Score: float64(at.Unix()), Member: id})
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// state returns the state of a task; "" if there is none.
func (b *bundle) state(queue, id string) string {
	b.t.Helper()
	info, err := b.inspector.GetTaskInfo(queue, id)
	if errors.Is(err, asynq.ErrTaskNotFound) {
		return ""
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return info.State.String()
}

// contents returns all that is in Redis.
func (b *bundle) contents() map[string]string {
	b.t.Helper()
	out := make(map[string]string)
	for _, key := range b.rdb.Keys(b.t.Context(), "*").Val() {
		dump, err := b.rdb.Dump(b.t.Context(), key).Result()
		if err != nil {
			b.t.Fatal(err)
		}
		out[key] = dump
	}
	return out
}

// ids is the body of a request about several tasks.
func ids(all ...string) string {
	text, err := json.Marshal(map[string][]string{"task_ids": all})
	if err != nil {
		panic(fmt.Sprint("strings are JSON: ", err))
	}
	return string(text)
}
