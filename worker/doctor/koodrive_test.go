package doctor_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/worker/doctor"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

const token = "the-token-of-this-test-0123456789"

// koodriveAt returns how a KooDrive at a URL is called, with a token in a file.
func (b *bundle) koodriveAt(url string) *doctor.KooDrive {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "token")
	b.must(os.WriteFile(file, []byte(token), 0o600))
	source, err := koodrive.TokenFile(file)
	b.must(err)
	authorizer, err := koodrive.NewTokenAuthorizer("", source)
	b.must(err)
	return &doctor.KooDrive{
		Client: koodrive.Config{BaseURL: url, Authorizer: authorizer}, Auth: "token", Format: koodrive.DefaultTokenFormat,
		Source: "the file " + file, File: file,
	}
}

// api is a simulated KooDrive.
func (b *bundle) api(cfg simulator.Config) http.Handler {
	b.t.Helper()
	api, err := simulator.New(cfg)
	b.must(err)
	return api
}

func (b *bundle) serve(h http.Handler) string {
	b.t.Helper()
	server := httptest.NewServer(h)
	b.t.Cleanup(server.Close)
	return server.URL
}

func TestKooDrive_Answers(t *testing.T) {
	t.Parallel()
	accepts := simulator.Auth{Mode: simulator.AuthToken, Token: token}
	status := func(code int, kind, body string) func(*bundle) http.Handler {
		return func(*bundle) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", kind)
				w.WriteHeader(code)
				_, _ = w.Write([]byte(body))
			})
		}
	}
	for name, tc := range map[string]struct {
		handler func(*bundle) http.Handler
		want    map[string]doctor.Status
		text    map[string]string
	}{
		"well": {
			func(b *bundle) http.Handler { return b.api(simulator.Config{Auth: accepts}) },
			map[string]doctor.Status{"reachable": doctor.OK, "tls": doctor.OK, "url": doctor.OK, "clock": doctor.OK, "credential": doctor.OK}, nil,
		},
		"the credential is refused": {
			func(b *bundle) http.Handler {
				return b.api(simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, Token: "another"}})
			},
			map[string]doctor.Status{"reachable": doctor.OK, "url": doctor.OK, "credential": doctor.Error},
			map[string]string{"credential": "Authorization is \"Bearer+{token}\" (--auth token), from the file"},
		},
		"the clock is wrong": {
			func(b *bundle) http.Handler {
				return b.api(simulator.Config{Auth: accepts, Clock: func() time.Time { return time.Now().Add(-time.Hour) }})
			},
			map[string]doctor.Status{"clock": doctor.Error, "credential": doctor.OK}, map[string]string{"clock": "ahead of KooDrive's clock"},
		},
		"a page": {
			status(http.StatusOK, "text/html", "<html>"),
			map[string]doctor.Status{"reachable": doctor.OK, "url": doctor.Error, "credential": doctor.Skipped}, map[string]string{"url": "text/html"},
		},
		"a page that is not found": {
			status(http.StatusNotFound, "text/html", "<html>"),
			map[string]doctor.Status{"url": doctor.Error, "credential": doctor.Skipped}, map[string]string{"url": "/koodrive/ose/v1/backup"},
		},
		"an outage": {
			status(http.StatusServiceUnavailable, "text/plain", "down"),
			map[string]doctor.Status{"reachable": doctor.Error, "url": doctor.Skipped, "credential": doctor.Skipped}, map[string]string{"reachable": "HTTP 503"},
		},
		"too many calls": {
			status(http.StatusTooManyRequests, "application/json", `{"error_code":"APIG.0308","error_msg":"The throttling threshold has been reached"}`),
			map[string]doctor.Status{"reachable": doctor.OK, "url": doctor.OK, "credential": doctor.Skipped}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.cfg.KooDrive = b.koodriveAt(b.serve(tc.handler(b)))
			f := b.run()
			for check, status := range tc.want {
				f.want("koodrive."+check, status, tc.text[check])
			}
			for name, all := range f.byName {
				for _, got := range all {
					if strings.Contains(got.Detail+got.Hint, token) {
						t.Errorf("%s shows the token: %+v", name, got)
					}
				}
			}
		})
	}
}

// Nobody listens, and Redis is checked all the same.
func TestKooDrive_Unreachable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.KooDrive = b.koodriveAt("http://127.0.0.1:1")
	f := b.run()
	f.want("koodrive.reachable", doctor.Error, "refused", "firewall")
	f.want("koodrive.url", doctor.Skipped)
	f.want("redis.persistence", doctor.OK)
}

// The file of the token is gone.
func TestKooDrive_NoCredential(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.KooDrive = b.koodriveAt(b.serve(b.api(simulator.Config{})))
	b.must(os.Remove(b.cfg.KooDrive.File))
	b.cfg.KooDrive.Client.Authorizer.Renew("")
	b.run().want("koodrive.credential", doctor.Error, "there is no credential to call with", "which cannot be read")
}

// certificate makes a certificate of this machine that ends after some time. If there are names, it is
// for these instead.
func certificate(t *testing.T, left time.Duration, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(left),
		DNSNames: names, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if len(names) == 0 {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pool
}

func TestKooDrive_Certificate(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		left    time.Duration
		trusted bool
		want    doctor.Status
		text    string
	}{
		"good":        {90 * day, true, doctor.OK, "TLS 1.3; the certificate is valid for 89 days more"},
		"ends soon":   {10 * day, true, doctor.Warning, "9 days"},
		"ends now":    {day, true, doctor.Error, "hours more"},
		"has ended":   {-time.Hour, true, doctor.Error, "expired"},
		"self-signed": {90 * day, false, doctor.Error, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			own, pool := certificate(t, tc.left)
			server := httptest.NewUnstartedServer(b.api(simulator.Config{}))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
			server.StartTLS()
			t.Cleanup(server.Close)
			b.cfg.KooDrive = b.koodriveAt(server.URL)
			if tc.trusted {
				b.cfg.KooDrive.Client.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
			}
			f := b.run()
			f.want("koodrive.tls", tc.want, tc.text)
			if tc.want == doctor.OK {
				f.want("koodrive.credential", doctor.OK)
			}
		})
	}
}

// A host that the certificate does not name: neither its authority nor its age is wrong.
func TestKooDrive_CertificateOfAnotherHost(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		names []string
		hint  string
	}{
		"one name":     {[]string{"koodrive.example.com"}, "the certificate is for koodrive.example.com"},
		"two names":    {[]string{"a.example", "*.b.example"}, "the certificate is for a.example, *.b.example"},
		"many names":   {[]string{"a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example"}, "d.example, e.example and 2 more"},
		"rude name":    {[]string{"a.example\x1b[31m"}, "the certificate is for a.example [31m"},
		"no name (IP)": {[]string{""}, "names no host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			own, pool := certificate(t, 90*24*time.Hour, tc.names...)
			server := httptest.NewUnstartedServer(b.api(simulator.Config{}))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
			server.Config.ErrorLog = zap.NewStdLog(zap.NewNop()) // the handshakes fail on purpose
			server.StartTLS()
			t.Cleanup(server.Close)
			b.cfg.KooDrive = b.koodriveAt(server.URL)
			b.cfg.KooDrive.Client.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
			f := b.run()
			f.want("koodrive.tls", doctor.Error, "127.0.0.1", "check the host in --koodrive-url", tc.hint)
			for _, got := range f.byName["koodrive.tls"] {
				if strings.Contains(got.Hint, "authority") || strings.Contains(got.Hint, "renewed") || strings.Contains(got.Detail+got.Hint, "\x1b") {
					t.Errorf("%+v; want no word of the authority, nor of a renewal, nor an escape sequence", got)
				}
			}
		})
	}
}

// Something accepts the connection, and that is all. So neither the name nor a firewall is wrong, and
// the hint says how far the call came.
func TestKooDrive_ConnectedWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		scheme string
		serve  func(net.Conn)
		detail string
		hint   string
	}{
		"hangs":        {"http", hang, "no complete answer within", "answers nothing: tell the operators of KooDrive, or of the proxy or load balancer"},
		"hangs up":     {"http", func(net.Conn) {}, "KooDrive does not answer", "closes the connection without an answer"},
		"hangs in TLS": {"https", hang, "no complete answer within", "TLS was not agreed on: check the port in --koodrive-url"},
		"no TLS":       {"https", func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "TLS", "TLS was not agreed on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			addr := b.listen(tc.serve)
			b.cfg.KooDrive = b.koodriveAt(tc.scheme + "://" + addr)
			b.cfg.KooDrive.Client.CallTimeout = time.Second
			f := b.run()
			f.want("koodrive.reachable", doctor.Error, tc.detail, "the connection to "+addr+" was made", tc.hint)
			for _, got := range f.byName["koodrive.reachable"] {
				if strings.Contains(got.Hint, "name resolution") || strings.Contains(got.Hint, "firewall") || strings.Contains(got.Hint, "server's certificate") {
					t.Errorf("%+v; want no word of name resolution, firewall and certificate", got)
				}
			}
		})
	}
}

// hang reads until the client hangs up.
func hang(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// listen hands every connection to a function, and closes it after that.
func (b *bundle) listen(serve func(net.Conn)) (addr string) {
	b.t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(b.t.Context(), "tcp", "127.0.0.1:0")
	b.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				serve(conn)
				_ = conn.Close()
			})
		}
	})
	b.t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}
