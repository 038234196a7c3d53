package worker_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
)

func newMonitor(b *bundle) *asynqmon.HTTPHandler {
	return asynqmon.New(asynqmon.Options{RedisConnOpt: asynq.RedisClientOpt{Addr: b.redis.Addr()}})
}

// call sends a request as a page of asynqmon does, and decodes the answer into out
// unless out is nil.
func call(t *testing.T, method, url string, out any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s", method, url, res.Status)
	}
	if out == nil {
		return
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		t.Fatal(err)
	}
}
