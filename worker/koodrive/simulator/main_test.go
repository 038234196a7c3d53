package simulator_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	prefix = "/koodrive/ose/v1/backup"
	user   = "u-1"
)

// clock is a clock that moves when a test says so.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bundle is a simulator behind a real server, with a clock of its own.
type bundle struct {
	*simulator.Simulator

	t      *testing.T
	clock  *clock
	server *httptest.Server
}

func setup(t *testing.T, cfg simulator.Config) *bundle {
	t.Helper()
	c := &clock{now: time.Date(2026, 1, 31, 8, 30, 0, 5e8, time.UTC)}
	cfg.Clock = c.Now
	sim, err := simulator.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	// Redirects are among the answers, and are to be seen, not followed.
	server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &bundle{Simulator: sim, t: t, clock: c, server: server}
}

// faults parses the texts of faults.
func faults(t *testing.T, texts ...string) []simulator.Fault {
	t.Helper()
	plan := make([]simulator.Fault, len(texts))
	for i, text := range texts {
		f, err := simulator.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		plan[i] = f
	}
	return plan
}

// answer is what came back, read in full.
type answer struct {
	Status int
	Header http.Header
	Body   string

	Code *int            `json:"code"`
	Msg  string          `json:"msg"`
	Data json.RawMessage `json:"data"`

	GatewayCode string `json:"error_code"`
	GatewayMsg  string `json:"error_msg"`
}

// request makes a request that passes every check but authorization.
func (b *bundle) request(method, path, body string) *http.Request {
	b.t.Helper()
	r, err := http.NewRequest(method, b.server.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("X-User-Id", user)
	r.Header.Set("X-Date", b.clock.Now().UTC().Format("20060102T150405Z"))
	return r
}

func (b *bundle) send(r *http.Request) (answer, error) {
	resp, err := b.server.Client().Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
	_ = json.Unmarshal(body, &a) // faults answer all sorts of things
	return a, nil
}

func (b *bundle) mustSend(r *http.Request) answer {
	b.t.Helper()
	a, err := b.send(r)
	if err != nil {
		b.t.Fatalf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	return a
}

func (b *bundle) do(method, path, body string) answer {
	b.t.Helper()
	return b.mustSend(b.request(method, path, body))
}

func (b *bundle) unbind(id string) answer {
	b.t.Helper()
	return b.do(http.MethodDelete, prefix+"/device/"+id, "")
}

func (b *bundle) lockCall(method, id string) answer {
	b.t.Helper()
	r := b.request(method, prefix+"/lock", "")
	r.Header.Set("X-Backup-Lock-Id", id)
	return b.mustSend(r)
}

// wantKooDrive checks the status and code of KooDrive's envelope.
func (a answer) wantKooDrive(t *testing.T, status, code int) {
	t.Helper()
	if a.Status != status || a.Code == nil || *a.Code != code {
		t.Errorf("answer is %d %s; want %d with code %d", a.Status, a.Body, status, code)
	}
}

// wantGateway checks the status and code of the gateway's error.
func (a answer) wantGateway(t *testing.T, status int, code string) {
	t.Helper()
	if a.Status != status || a.GatewayCode != code || a.GatewayMsg == "" || a.Code != nil {
		t.Errorf("answer is %d %s; want %d with error code %s", a.Status, a.Body, status, code)
	}
}
