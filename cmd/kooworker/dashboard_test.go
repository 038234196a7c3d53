package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// Without credentials nobody elsewhere gets in.
func TestDashboard_ListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0", "0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80"} {
		r := kooworker(t, "", "dashboard", "--addr", addr, "--log-format", "console")
		if r.code != exitUsage || !strings.Contains(r.stderr, "--users-file") || !strings.Contains(r.stderr, "--trusted-proxy") {
			t.Errorf("--addr %s: %+v; want exit 2, and how to listen there", addr, r)
		}
	}
	for _, args := range [][]string{
		{"--users-file", filepath.Join(t.TempDir(), "none")}, {"--trusted-proxy", "example.com"}, {"--external-url", "ops.example.com/koo"}, {"--external-url", "https://u:p@ops.example.com"},
		{"--tls-cert", "cert.pem"}, {"--tls-cert", "none.pem", "--tls-key", "none.pem"}, {"--operator", "alice"}, {"--grace", "0s"}, {"--addr", "127.0.0.1:x"},
	} {
		if r := kooworker(t, "", append([]string{"dashboard"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %+v; want exit 2", args, r)
		}
	}
}

func TestHashPassword(t *testing.T) {
	t.Parallel()
	r := kooworker(t, "secret\n", "hash-password", "alice", "--role", "operator")
	name, rest, _ := strings.Cut(strings.TrimSpace(r.stdout), ":")
	hash, role, _ := strings.Cut(rest, ":")
	if r.code != exitDone || name != "alice" || role != "operator" || bcrypt.CompareHashAndPassword([]byte(hash), []byte("secret")) != nil {
		t.Errorf("%+v; want a line alice:HASH:operator with the hash of the password", r)
	}
	for _, stdin := range []string{"", "\n", strings.Repeat("x", 100)} {
		if r := kooworker(t, stdin, "hash-password", "alice"); r.code != exitUsage || strings.Contains(r.stderr, "xxxx") {
			t.Errorf("a password of %d bytes: %+v; want exit 2, and no password in the error", len(stdin), r)
		}
	}
}

// dashboardUsers writes a file of users: alice, an operator, whose password is "pw".
func dashboardUsers(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("alice:"+string(hash)+":operator\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startDashboard starts a dashboard, and returns the URL of its first page.
func startDashboard(t *testing.T, server *redistest.Server, args ...string) (p *process, at string) {
	t.Helper()
	p = startProcess(t, nil, append([]string{"dashboard", "--addr", "127.0.0.1:0", "--redis-url", server.URL()}, args...)...)
	redistest.Eventually(t, 20*time.Second, "the dashboard listens", func() bool {
		_, rest, found := strings.Cut(p.log(), `"msg":"dashboard listens","url":"`)
		at, _, _ = strings.Cut(rest, `/"}`)
		return found && strings.Contains(rest, "\n")
	})
	return p, at
}

// send sends a form as alice, and returns where it leads.
func send(t *testing.T, to string, form url.Values) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("alice", "pw")
	r.Close = true
	resp, err := http.DefaultTransport.RoundTrip(r) // does not follow redirects
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusSeeOther {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("POST %s: status %d; want a redirect\n%s", to, resp.StatusCode, body)
	}
	return resp.Header.Get("Location")
}

// A replay that was ordered in the dashboard goes on when the dashboard is killed and started
// again: each letter that matches is replayed once, and no other.
func TestDashboard_ReplayGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	const matching, others = 1500, 200
	server := redistest.Start(t)
	api := newFakeAPI(t, 0)
	startWorker(t, server, api.URL)
	letters := deadletter.NewStore(server.Client())
	for i := range matching + others {
		unbind := tasks.DeviceUnbind{UserID: "u", DeviceID: fmt.Sprint("d-", i)}
		payload, err := tasks.Encode(unbind, tasks.Intent{})
		if err != nil {
			t.Fatal(err)
		}
		letter := deadletter.Letter{
			ID: tasks.Identity(unbind), Kind: unbind.Kind(), Queue: tasks.QueueUnbind, Payload: payload, UserID: "u", Target: unbind.DeviceID,
			Reason: tasks.Forbidden, Error: "forbidden: no permission", Attempts: 1, DeadAt: time.Now(),
		}
		if i >= matching {
			letter.Reason, letter.Error = tasks.Rejected, "rejected: no"
		}
		if err := letters.Park(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
	}
	redistest.Eventually(t, time.Minute, "all letters are parked", func() bool {
		counts, err := letters.Counts(t.Context())
		return err == nil && counts.Total == matching+others
	})

	users := dashboardUsers(t)
	p, at := startDashboard(t, server, "--users-file", users)
	order := url.Values{"reason": {"forbidden"}, "rate": {"300"}, "why": {"INC-17: the role is granted"}}
	job := path.Base(send(t, at+"/dead/replay", order))
	jobs := bulk.NewStore(server.Client())
	state := func() bulk.Job {
		t.Helper()
		j, err := jobs.Get(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	redistest.Eventually(t, 30*time.Second, "a third is replayed", func() bool { return state().Done > matching/3 })
	p.end(t, syscall.SIGKILL)
	if j := state(); j.Done >= matching {
		t.Fatalf("%d are replayed already; want the dashboard killed half-way", j.Done)
	}
	p, _ = startDashboard(t, server, "--users-file", users)
	redistest.Eventually(t, time.Minute, "the job is done", func() bool { return state().State == bulk.Done })
	if j := state(); j.Done != matching || j.Matched != matching || j.Skipped != 0 || j.By != "alice" {
		t.Errorf("%+v; want %d letters replayed by alice", j, matching)
	}
	redistest.Eventually(t, time.Minute, "the worker has carried them out", func() bool {
		targets, _ := api.executed()
		return targets == matching
	})
	counts, err := letters.Counts(t.Context())
	if _, twice := api.executed(); err != nil || len(twice) > 0 || counts.Total != others {
		t.Errorf("%d devices were unbound twice, and %d letters are left, %v; want 0, and the %d that did not match", len(twice), counts.Total, err, others)
	}
	if code := p.end(t, syscall.SIGTERM); code != exitDone {
		t.Errorf("the dashboard after SIGTERM: exit %d; want exit 0\n%s", code, p.log())
	}
}

// certificate writes a certificate for 127.0.0.1 and its key.
func certificate(t *testing.T, folder string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// The certificate is read again when it is renewed.
func TestDashboard_TLS(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	first := certificate(t, folder, 1)
	_, at := startDashboard(t, redistest.Start(t), "--tls-cert", filepath.Join(folder, "cert.pem"), "--tls-key", filepath.Join(folder, "key.pem"))
	ask := func(cert *x509.Certificate) error {
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Strict-Transport-Security") != "" {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	if err := ask(first); err != nil || !strings.HasPrefix(at, "https://") {
		t.Fatalf("%s: %v; want an answer by HTTPS", at, err)
	}
	second := certificate(t, folder, 2)
	redistest.Eventually(t, 20*time.Second, "the new certificate is used", func() bool { return ask(second) == nil })
}
