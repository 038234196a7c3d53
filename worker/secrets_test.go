package worker_test

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive"
)

// A server may send back what it got, and its answers are shown in errors, logs and
// dead letters.
func TestWorker_SecretsStayInside(t *testing.T) {
	t.Parallel()
	const secret = "s3cret-60f4ccc7b1-3dd9a68068"
	broker := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"token": secret, "expires_in": 600})
	}))
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := func(source koodrive.TokenSource, err error) koodrive.Authorizer {
		if err != nil {
			t.Fatal(err)
		}
		authorizer, err := koodrive.NewTokenAuthorizer("", source)
		if err != nil {
			t.Fatal(err)
		}
		return authorizer
	}
	app := func() koodrive.Authorizer {
		source, err := koodrive.StaticSecret(secret)
		if err != nil {
			t.Fatal(err)
		}
		authorizer, err := koodrive.NewAppAuthorizer("app-1", source)
		if err != nil {
			t.Fatal(err)
		}
		return authorizer
	}
	for name, authorizer := range map[string]koodrive.Authorizer{
		"value":  token(koodrive.StaticToken(secret)),
		"file":   token(koodrive.TokenFile(file)),
		"broker": token(koodrive.TokenBroker(koodrive.BrokerConfig{URL: broker + "/?key=" + secret})),
		"app":    app(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signatures := make(chan string, 10_000)
			var refused atomic.Int32
			echo := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				auth := r.Header.Get("Authorization")
				signatures <- auth[strings.LastIndexAny(auth, "=+")+1:]
				if strings.HasSuffix(r.URL.Path, "7") {
					_, _ = w.Write([]byte(done.body))
					return
				}
				refused.Add(1)
				statuses := map[byte]int{'1': 500, '2': 403, '3': 401, '4': 404, '5': 429, '6': 200}
				w.WriteHeader(cmp.Or(statuses[r.URL.Path[len(r.URL.Path)-1]], 200))
				_ = json.NewEncoder(w).Encode(map[string]any{"code": 13000999, "msg": "refused: Authorization " + auth + ", secret " + secret})
			}))
			b := setup(t, echo)
			b.cfg.KooDrive.Authorizer = authorizer
			_, stop := b.start()
			for i := 1; i <= 6; i++ {
				b.enqueue(unbindTask(i))
			}
			healthy := 7 // other users' calls must succeed, so that the failures are charged
			redistest.Eventually(t, settleIn, "each was tried, and one is dead", func() bool {
				b.enqueue(unbindTask(healthy))
				healthy += 10
				return refused.Load() >= 12 && len(b.dead()) > 0
			})
			stop() // nobody sends signatures any more

			leaks := map[string]string{"the log": b.logs.String()}
			for _, key := range b.rdb.Keys(t.Context(), "*").Val() {
				leaks["Redis key "+key] = key + dump(t, b, key)
			}
			for target, l := range b.dead() {
				leaks["dead letter "+target] = l.Error + string(l.Payload)
			}
			close(signatures)
			secrets := map[string]bool{secret: true}
			for s := range signatures {
				secrets[s] = true
			}
			for where, text := range leaks {
				for s := range secrets {
					if strings.Contains(text, s) {
						t.Errorf("%s holds the secret %q; want no place to hold it:\n%.500s", where, s, text)
					}
				}
			}
			if len(leaks) < 10 {
				t.Errorf("%d places were searched; want at least 10", len(leaks))
			}
		})
	}
}

// dump reads a key of any type.
func dump(t *testing.T, b *bundle, key string) string {
	t.Helper()
	var parts []string
	ctx := t.Context()
	switch b.rdb.Type(ctx, key).Val() {
	case "string":
		parts = append(parts, b.rdb.Get(ctx, key).Val())
	case "list":
		parts = b.rdb.LRange(ctx, key, 0, -1).Val()
	case "set":
		parts = b.rdb.SMembers(ctx, key).Val()
	case "zset":
		parts = b.rdb.ZRange(ctx, key, 0, -1).Val()
	case "hash":
		for field, value := range b.rdb.HGetAll(ctx, key).Val() {
			parts = append(parts, field, value)
		}
	}
	return strings.Join(parts, "\n")
}

// Operators use asynqmon: it must show why a letter is dead, Run must replay the
// letter, and Delete must discard it.
func TestAsynqmon_ShowsAndReplaysDeadLetters(t *testing.T) {
	t.Parallel()
	api := newStandIn(t, always(forbidden))
	b := setup(t, api.URL)
	b.start()
	b.enqueue(unbindTask(1), asynq.TaskID("letter-1"))
	b.enqueue(unbindTask(2), asynq.TaskID("letter-2"))
	b.awaitSettled()

	monitor := newMonitor(b)
	defer func() { _ = monitor.Close() }()
	page := httptest.NewServer(monitor)
	defer page.Close()
	var list struct {
		Tasks []struct {
			ID    string `json:"id"`
			Error string `json:"error_message"`
		} `json:"tasks"`
	}
	call(t, http.MethodGet, page.URL+"/api/queues/dead-letter/retry_tasks", &list)
	if len(list.Tasks) != 2 {
		t.Fatalf("asynqmon lists %+v; want 2 letters", list)
	}
	for _, task := range list.Tasks {
		if task.Error != "forbidden: HTTP 403, code 13000410: no permission" {
			t.Errorf("asynqmon shows %s with %q; want the answer", task.ID, task.Error)
		}
	}
	api.setAnswer(always(done))
	call(t, http.MethodPost, page.URL+"/api/queues/dead-letter/retry_tasks/letter-1:run", nil)
	redistest.Eventually(t, settleIn, "the Run button replays", func() bool {
		_, deletes, _ := api.snapshot()
		return deletes["device-1"] == 1 && len(b.dead()) == 1
	})
	call(t, http.MethodDelete, page.URL+"/api/queues/dead-letter/retry_tasks/letter-2", nil)
	if dead := b.dead(); len(dead) != 0 {
		t.Errorf("after the Delete button: %v; want no letter", dead)
	}
}
