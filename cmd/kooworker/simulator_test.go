package main

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/internal/redistest"
)

func TestSimulator_QuotasByFlagAndVariable(t *testing.T) {
	const first, second = "fixed:1/h,call=other", "bucket:5/s,burst=2,name=all,tell=text+debug"
	for name, tc := range map[string]struct {
		variable string
		args     []string
	}{
		"flags":    {"", []string{"--quota", first, "--quota", second}},
		"variable": {first + "; " + second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KOOWORKER_SIMULATOR_QUOTAS", tc.variable)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var stdout, stderr redistest.Buffer
			code := make(chan int, 1)
			go func() {
				code <- run(ctx, append([]string{"simulator", "--addr", "127.0.0.1:0", "--auth", "none"}, tc.args...), strings.NewReader(""), &stdout, &stderr)
			}()
			var url string
			redistest.Eventually(t, 20*time.Second, "the simulator listens", func() bool {
				url = regexp.MustCompile(`http://[0-9.:]+`).FindString(stdout.String())
				return url != ""
			})
			for _, want := range []int{http.StatusNotFound, http.StatusTooManyRequests} {
				if got := getJSON(t, url+"/nothing", nil); got != want {
					t.Errorf("a call is answered %d; want %d", got, want)
				}
			}
			var quotas []map[string]any
			getJSON(t, url+"/_sim/quotas", &quotas)
			want := []map[string]any{
				{"quota": "fixed:1/h,call=other,policy=api,name=api-other", "name": "api-other", "granted": 1.0, "refused": 1.0, "foreignGranted": 0.0, "foreignRefused": 0.0},
				{"quota": "bucket:5/s,burst=2,policy=api,name=all,tell=text+debug", "name": "all", "granted": 1.0, "refused": 0.0, "foreignGranted": 0.0, "foreignRefused": 0.0},
			}
			if diff := cmp.Diff(want, quotas); diff != "" {
				t.Errorf("quotas (-want +got):\n%s", diff)
			}
			cancel()
			if got := <-code; got != exitDone {
				t.Errorf("exit %d; want exit 0\n%s", got, stderr.String())
			}
		})
	}
}

// getJSON returns the status of an answer, and reads its body into v unless v is nil.
func getJSON(t *testing.T, url string, v any) int {
	t.Helper()
	resp, err := http.Get(url) //nolint:gosec // the address that the simulator printed
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if v != nil {
		if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode
}
