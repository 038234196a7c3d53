package koodrive

import (
	"io"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/tasks"
)

// Any answer may name the limit in a header. Only a refusal names it in its text.
func TestClient_Limit(t *testing.T) {
	t.Parallel()
	const refused = "The throttling threshold has been reached: policy user over ratelimit,limit:100,time:1 minute"
	perMinute := Limit{Calls: 100, Window: time.Minute}
	told := headers(`RateLimit-Policy: "x";q=100;w=60`, `RateLimit: "x";r=50;t=30`)
	for name, tc := range map[string]struct {
		header http.Header
		status int
		body   string
		reason tasks.Reason
		want   Limit
	}{
		"success":            {told, 200, `{"code":0,"data":[]}`, tasks.OK, perMinute.with(50, 30*time.Second)},
		"success, untold":    {nil, 200, `{"code":0,"msg":"` + refused + `","data":[]}`, tasks.OK, Limit{}},
		"already gone":       {told, 404, `{"code":13000309}`, tasks.Gone, perMinute.with(50, 30*time.Second)},
		"rejected":           {nil, 200, `{"code":13000999,"msg":"` + refused + `"}`, tasks.Rejected, Limit{}},
		"refused":            {nil, 429, `{"error_code":"APIG.0308","error_msg":"` + refused + `"}`, tasks.Throttled, Limit{Calls: 100, Window: time.Minute, Dimension: "user"}},
		"refused, as APIGW":  {nil, 429, `{"error_code":"APIGW.0308","error_msg":"` + refused + `"}`, tasks.Throttled, Limit{Calls: 100, Window: time.Minute, Dimension: "user"}},
		"refused with a 403": {nil, 403, `{"error_code":"APIG.0308","error_msg":"` + refused + `"}`, tasks.Throttled, Limit{Calls: 100, Window: time.Minute, Dimension: "user"}},
		"refused by a proxy": {headers("X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 7"), 429, "<html>", tasks.Throttled, Limit{}.with(0, 7*time.Second)},
		"trouble":            {told, 503, "<html>", tasks.Upstream, perMinute.with(50, 30*time.Second)},
		"another server's":   {told, 404, "<html>", tasks.Misrouted, Limit{}},
		"a redirect":         {told, 302, "", tasks.Misrouted, Limit{}},
	} {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			maps.Copy(w.Header(), tc.header)
			w.WriteHeader(tc.status)
			_, _ = io.WriteString(w, tc.body)
		})
		_, got := connect(t, srv.URL, nil).Devices(t.Context(), testUser)
		if diff := cmp.Diff(tc.want, got.Limit); diff != "" || got.Reason != tc.reason {
			t.Errorf("%s: got %v, want %s (-want +got):\n%s", name, got, tc.reason, diff)
		}
	}
}
