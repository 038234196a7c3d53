package worker

import (
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
)

// maxFrames is the maximum number of stack frames of this module between asynq and
// the HTTP client, for a release.
const maxFrames = 8

func TestRelease_FramesFromHandlerToHTTPClient(t *testing.T) {
	t.Parallel()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"code":0,"msg":"success"}`))
	}))
	defer api.Close()
	token, err := koodrive.StaticToken("tok-60f4ccc7b1-3dd9a68068")
	if err != nil {
		t.Fatal(err)
	}
	authorizer, err := koodrive.NewTokenAuthorizer("", token)
	if err != nil {
		t.Fatal(err)
	}
	server := redistest.Start(t)
	w, err := New(Config{
		Redis:    func() redis.UniversalClient { return redis.NewClient(server.Options()) },
		KooDrive: koodrive.Config{BaseURL: api.URL, Authorizer: authorizer}, Releases: noReleases{},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer w.koodrive.CloseIdleConnections()
	payload, err := tasks.Encode(tasks.LockRelease{UserID: "u", LockID: "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"}, tasks.Intent{})
	if err != nil {
		t.Fatal(err)
	}

	var ours []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: func(string) { ours = framesOfOurs() }})
	if err := (dispatcher{w.pipeline, w.letters, nil, t.Context(), w.fetcher, w.pauses}).ProcessTask(ctx, asynq.NewTask(string(tasks.KindLockRelease), payload)); err != nil {
		t.Fatalf("the release: %v", err)
	}
	t.Logf("from asynq's handler to the HTTP client:\n%s", strings.Join(ours, "\n"))
	if len(ours) == 0 || len(ours) > maxFrames {
		t.Errorf("a release takes %d frames of ours; want 1 to %d", len(ours), maxFrames)
	}
}

// framesOfOurs returns the functions of this module on the stack, except those of
// tests. The outermost comes first.
func framesOfOurs() (ours []string) {
	pcs := make([]uintptr, 100)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasPrefix(f.Function, "github.com/kooworker/kooworker/") && !strings.HasSuffix(f.File, "_test.go") {
			ours = append([]string{"\t" + f.Function}, ours...)
		}
		if !more {
			return ours
		}
	}
}
