package koodrive

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/tasks"
)

// listen answers every connection with what handle does to it, and returns the
// listener's address.
func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			handle(conn)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// Each of these fails before KooDrive has got a request. So none is the task's
// fault, with or without a proxy.
func TestClient_NoServerReached(t *testing.T) {
	t.Parallel()
	nobody := listen(t, func(net.Conn) { t.Error("KooDrive was reached around the proxy") })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	refuse := func(status string) func(net.Conn) {
		return func(conn net.Conn) {
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil || req.Method != http.MethodConnect {
				t.Errorf("got %v, %v; want CONNECT", req, err)
			}
			_, _ = conn.Write([]byte("HTTP/1.1 " + status + "\r\nContent-Length: 0\r\n\r\n"))
		}
	}
	// socks reads a greeting or request of the client, and sends each answer in turn.
	socks := func(answers ...string) func(net.Conn) {
		return func(conn net.Conn) {
			for _, answer := range answers {
				_, _ = conn.Read(make([]byte, 512))
				_, _ = conn.Write([]byte(answer))
			}
		}
	}
	hangUp := func(conn net.Conn) { _, _ = conn.Read(make([]byte, 512)) }
	hang := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) } // until the client hangs up
	plain := serve(t, say(200, `{"code":0}`)).Listener.Addr().String()
	trusted := httptest.NewUnstartedServer(say(200, `{"code":0}`))
	trusted.Config.ErrorLog = zap.NewStdLog(zap.NewNop()) // the failed handshakes are expected
	trusted.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	trusted.StartTLS()
	t.Cleanup(trusted.Close)
	pool := trusted.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for name, tc := range map[string]struct {
		proxy, server string
		says          string
	}{
		"refused":                  {"", closed.Addr().String(), "connection refused"},
		"no such name":             {"", "koodrive.invalid", "koodrive.invalid"},
		"plain text on a TLS port": {"", plain, "TLS handshake"},
		"hangs up in TLS":          {"", listen(t, hangUp), "connection"},
		"TLS to nowhere":           {"", listen(t, hang), "within 300ms"},
		"no client certificate":    {"", trusted.Listener.Addr().String(), "certificate required"},
		"HTTP proxy is down":       {"http://" + closed.Addr().String(), nobody, "proxyconnect"},
		"HTTP proxy says 407":      {"http://" + listen(t, refuse("407 Proxy Authentication Required")), nobody, "the proxy answered CONNECT with HTTP 407"},
		"HTTP proxy says 503":      {"http://" + listen(t, refuse("503 Service Unavailable")), nobody, "the proxy answered CONNECT with HTTP 503"},
		"HTTP proxy hangs up":      {"http://" + listen(t, hangUp), nobody, "connection"},
		"HTTP proxy hangs":         {"http://" + listen(t, hang), nobody, "within 300ms"},
		"SOCKS proxy is down":      {"socks5://" + closed.Addr().String(), nobody, "connection refused"},
		"SOCKS proxy wants a name": {"socks5://" + listen(t, socks("\x05\xff")), nobody, "authentication"},
		"SOCKS proxy refuses":      {"socks5://" + listen(t, socks("\x05\x00", "\x05\x05\x00\x01\x7f\x00\x00\x01\x00\x00")), nobody, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, "https://"+tc.server, func(cfg *Config) {
				cfg.TLS = &tls.Config{RootCAs: pool}
				if strings.HasPrefix(tc.says, "within") {
					cfg.CallTimeout = 300 * time.Millisecond
				}
			})
			c.transport.Proxy = nil
			if tc.proxy != "" {
				proxy, err := url.Parse(tc.proxy)
				if err != nil {
					t.Fatal(err)
				}
				c.transport.Proxy = http.ProxyURL(proxy)
			}
			got := c.Unbind(t.Context(), testUser, testDevice)
			if !got.NoServerReached || got.Reason != tasks.Network && got.Reason != tasks.TimedOut || !strings.Contains(got.Message, tc.says) {
				t.Errorf("got %v, NoServerReached %t; want it set, and %q", got, got.NoServerReached, tc.says)
			}
		})
	}
}

// net/http sends a call again if an idle connection turns out to be closed. What
// the last try meets counts.
func TestClient_ServerGoesAwayWithItsIdleConnections(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		sent := bufio.NewReader(conn)
		_, _ = http.ReadRequest(sent)
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"code\":0}"))
		_, _ = http.ReadRequest(sent)
		_ = ln.Close()
		_ = conn.Close()
	}()
	c := connect(t, "http://"+ln.Addr().String(), nil)
	if got := c.Unbind(t.Context(), testUser, testDevice); got.Reason != tasks.OK {
		t.Fatalf("got %v, want ok", got)
	}
	got := c.Unbind(t.Context(), testUser, testDevice)
	if got.Reason != tasks.Network || !got.NoServerReached || !strings.Contains(got.Message, "refused") {
		t.Errorf("got %v, NoServerReached %t; want a refused connection, and it set", got, got.NoServerReached)
	}
	<-gone
}

// Once a server has the request, what becomes of it may be the task's fault.
func TestClient_ServerReached(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if got := connect(t, srv.URL, nil).Unbind(t.Context(), testUser, testDevice); got.Reason != tasks.Network || got.NoServerReached {
		t.Errorf("got %v, NoServerReached %t; want network without it", got, got.NoServerReached)
	}
}
