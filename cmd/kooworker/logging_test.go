package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// answerThenJunk answers the request of one connection. Then it writes what is sent on
// junk to the connection, which is idle by then.
func answerThenJunk(t *testing.T, junk <-chan string) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		in := bufio.NewReader(conn)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
		for text := range junk {
			_, _ = io.WriteString(conn, text)
		}
		_, _ = io.Copy(io.Discard, in) // until the client closes the connection
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return "http://" + listener.Addr().String()
}

// Not parallel, and neither is the next one: the process has one standard logger.
func TestLogging_DropsServerBytesThatNetHTTPQuotes(t *testing.T) {
	var stderr redistest.Buffer
	flags := logFlags{LogLevel: "info", LogFormat: "json"}
	flags.logger(&stderr)
	t.Cleanup(flags.release)

	junk := make(chan string, 1)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	res, err := client.Get(answerThenJunk(t, junk))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	junk <- "HTTP/1.1 401 Unauthorized\r\nX-Echo: Authorization: Bearer s3cret starting with s3cret\r\n\r\n"
	close(junk)

	redistest.Eventually(t, 10*time.Second, "net/http writes to the log", func() bool {
		return strings.Contains(stderr.String(), "Unsolicited response received on idle HTTP channel")
	})
	got := stderr.String()
	if strings.Contains(got, "s3cret") || strings.Contains(got, "starting with") {
		t.Errorf("the log shows what the server sent: %s; want no 's3cret' and no 'starting with'", got)
	}
	if !strings.HasPrefix(got, `{"level":"warn"`) || !strings.Contains(got, `"logger":"net"`) {
		t.Errorf("%s; want a JSON line of level warn and logger net", got)
	}
}

func TestLogging_StandardLogFollowsTheCommand(t *testing.T) {
	var first, second, silent redistest.Buffer
	one, two, quiet := logFlags{LogLevel: "info", LogFormat: "json"}, logFlags{LogLevel: "info", LogFormat: "json"}, logFlags{LogLevel: "info", LogFormat: "json"}
	one.logger(&first)
	two.logger(&second)
	one.release() // changes nothing: the logger belongs to two by now
	panics(t)
	if got := second.String(); !strings.Contains(got, "http: panic serving") || !strings.Contains(got, `"logger":"net"`) || first.String() != "" {
		t.Errorf("second: %s\nfirst: %s; want the panic, by logger net, in second only", got, first.String())
	}
	length := len(second.String())
	quiet.quiet(&silent)
	panics(t)
	two.release()
	quiet.release()
	panics(t)
	if len(second.String()) != length || silent.String() != "" || first.String() != "" {
		t.Errorf("a command that is over, or quiet, gets lines:\n%s\n%s\n%s; want none", first.String(), second.String(), silent.String())
	}
}

// panics makes net/http write to the standard logger.
func panics(t *testing.T) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on purpose") }))
	defer server.Close()
	if res, err := server.Client().Get(server.URL); err == nil {
		_ = res.Body.Close()
		t.Error("the request succeeded; want the handler to panic")
	}
}
