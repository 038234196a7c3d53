package koodrive

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/tasks"
)

// rawServer hands the lines of each request to the test. It answers the first
// request of a connection and resets the connection at the second. That is what a
// client sees if the server's idle timeout passes while a request is on its way.
func rawServer(t *testing.T) (addr string, requests <-chan []string, closed <-chan struct{}) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen, gone := make(chan []string, 10), make(chan struct{}, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			rd := bufio.NewReader(conn)
			for i := range 2 {
				lines, err := readHead(rd)
				if err != nil {
					break
				}
				seen <- lines
				if i == 1 { // the second one on this connection
					_ = conn.(*net.TCPConn).SetLinger(0)
					break
				}
				const body = `{"code":0,"msg":"success"}`
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
			_ = conn.Close()
			gone <- struct{}{}
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String(), seen, gone
}

func readHead(rd *bufio.Reader) (lines []string, err error) {
	for {
		line, err := rd.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return lines, nil
		}
		lines = append(lines, line)
	}
}

func TestClient_Headers(t *testing.T) {
	t.Parallel()
	addr, requests, _ := rawServer(t)
	for name, tc := range map[string]struct {
		call  func(*Client) Answer
		line  string
		extra []string
	}{
		"unbind": {
			func(c *Client) Answer { return c.Unbind(t.Context(), testUser, "a/b c") },
			"DELETE /pre/koodrive/ose/v1/backup/device/a%2Fb%20c HTTP/1.1", nil,
		},
		"release": {
			func(c *Client) Answer { return c.Release(t.Context(), testUser, testLock) },
			"DELETE /pre/koodrive/ose/v1/backup/lock HTTP/1.1", []string{"X-Backup-Lock-Id"},
		},
		"devices": {
			func(c *Client) Answer { _, a := c.Devices(t.Context(), testUser); return a },
			"GET /pre/koodrive/ose/v1/backup/device HTTP/1.1", nil,
		},
	} {
		c := connect(t, "http://"+addr+"/pre/", nil)
		if got := tc.call(c); got.Status != 200 {
			t.Fatalf("%s: got %v, want status 200", name, got)
		}
		c.CloseIdleConnections()
		lines := <-requests
		if lines[0] != tc.line {
			t.Errorf("%s: got %q, want %q", name, lines[0], tc.line)
		}
		var names []string
		for _, line := range lines[1:] {
			header, value, _ := strings.Cut(line, ": ")
			names = append(names, header)
			if header == "Authorization" && value != "Bearer+"+testToken {
				t.Errorf("%s: got Authorization %q, want the token in the default format", name, value)
			}
		}
		slices.Sort(names)
		want := append([]string{"Authorization", "Host", "User-Agent", "X-Date", "X-User-Id"}, tc.extra...)
		slices.Sort(want)
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%s: headers (-want +got)\n%s", name, diff)
		}
	}
}

func TestClient_StaleConnection(t *testing.T) {
	t.Parallel()
	addr, requests, closed := rawServer(t)
	c := connect(t, "http://"+addr, nil)
	for i := range 2 {
		if got := c.Unbind(t.Context(), testUser, testDevice); got.Reason != tasks.OK {
			t.Fatalf("call %d: got %v, want ok", i+1, got)
		}
	}
	<-closed      // the reset one
	for range 3 { // first call, second call on the stale connection, and again on a new one
		for _, line := range <-requests {
			if strings.HasPrefix(strings.ToLower(line), "idempotency-key") {
				t.Errorf("%q was sent, want it to stay off the wire", line)
			}
		}
	}
}

func TestClient_Redirects(t *testing.T) {
	t.Parallel()
	other := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") })
	for _, status := range []int{301, 302, 303, 307, 308} {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/login?ticket=hush", status)
		})
		got := connect(t, srv.URL, nil).Unbind(t.Context(), testUser, testDevice)
		if want := "and a redirect to " + other.URL; got.Reason != tasks.Misrouted || !strings.HasSuffix(got.Message, want) {
			t.Errorf("%d: got %v, want the message %q", status, got, want)
		}
	}
	odd := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://[bad")
		w.WriteHeader(http.StatusFound)
	})
	if got := connect(t, odd.URL, nil).Unbind(t.Context(), testUser, testDevice); got.Reason != tasks.Misrouted {
		t.Errorf("odd location: got %v, want misrouted", got)
	}
}

func TestClient_OversizedAnswers(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		size := maxAnswer
		if r.Method == http.MethodGet {
			size = maxList
		}
		_, _ = io.WriteString(w, `{"code":0,"data":[],"msg":"`)
		_, _ = io.Copy(w, io.LimitReader(zeros{}, int64(size)))
		_, _ = io.WriteString(w, `"}`)
	})
	c := connect(t, srv.URL, nil)
	if got := c.Unbind(t.Context(), testUser, testDevice); got.Reason != tasks.Protocol || !strings.Contains(got.Message, "1 MiB") {
		t.Errorf("unbind: got %v, want protocol with the limit", got)
	}
	if _, got := c.Devices(t.Context(), testUser); got.Reason != tasks.Protocol || !strings.Contains(got.Message, "16 MiB") {
		t.Errorf("devices: got %v, want protocol with the limit", got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}
