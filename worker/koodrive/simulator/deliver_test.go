package simulator_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// raw sends an unbind of d-1 over a connection of its own and returns what the
// wire said until it ended, and how it ended.
func (b *bundle) raw() (string, error) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.server.Listener.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = fmt.Fprintf(conn, "DELETE %s/device/d-1 HTTP/1.1\r\nHost: x\r\nX-User-Id: %s\r\nX-Date: %s\r\nConnection: close\r\n\r\n",
		prefix, user, b.clock.Now().Format("20060102T150405Z"))
	if err != nil {
		b.t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	return string(got), err
}

func TestFault_ResetIsTCPReset(t *testing.T) {
	t.Parallel()
	for kind, left := range map[string]int{simulator.KindResetBefore: 1, simulator.KindResetAfter: 0} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := setup(t, simulator.Config{Faults: faults(t, kind)})
			b.Bind(user, simulator.Device{DeviceID: "d-1"})
			got, err := b.raw()
			if got != "" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the wire said %q and ended with %v; want a reset", got, err)
			}
			if n := len(b.Devices(user)); n != left {
				t.Errorf("%d devices are bound after it; want %d", n, left)
			}
			if st := b.Stats(); st.Answers[0] != 1 || st.Unbound != 1-left {
				t.Errorf("stats are %+v; want one request without an answer", st)
			}
		})
	}
}

func TestFault_ResetUnderTLSAndHTTP2(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", h2), func(t *testing.T) {
			t.Parallel()
			b := setup(t, simulator.Config{Faults: faults(t, "reset-after,times=1", "truncate,times=1")})
			b.Bind(user, simulator.Device{DeviceID: "d-1"})
			server := httptest.NewUnstartedServer(b)
			server.EnableHTTP2 = h2
			server.StartTLS()
			t.Cleanup(server.Close)
			b.server = server
			for range 2 {
				r := b.request(http.MethodDelete, prefix+"/device/d-1", "")
				r.Body, r.GetBody = http.NoBody, nil
				if a, err := b.send(r); err == nil {
					t.Errorf("answer is %d %s; want a broken connection", a.Status, a.Body)
				}
			}
			last := b.unbind("d-1")
			last.wantKooDrive(t, 404, 13000309)
			if st := b.Stats(); st.Unbound != 1 {
				t.Errorf("%d were unbound; want 1", st.Unbound)
			}
		})
	}
}

func TestFault_Truncate(t *testing.T) {
	t.Parallel()
	for kind, wantErr := range map[string]error{
		simulator.KindTruncate:      io.ErrUnexpectedEOF,
		simulator.KindTruncateClean: nil,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := setup(t, simulator.Config{Faults: faults(t, kind)})
			b.Bind(user, simulator.Device{DeviceID: "d-1"})
			wire, err := b.raw()
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(wire)), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if !errors.Is(err, wantErr) {
				t.Errorf("the body ends with %v; want %v", err, wantErr)
			}
			if !strings.HasPrefix(string(body), `{"code":0,`) || strings.HasSuffix(string(body), "}") {
				t.Errorf("body is %s; want half of a success", body)
			}
			if n := len(b.Devices(user)); n != 0 {
				t.Errorf("%d devices are bound; want the call performed", n)
			}
		})
	}
}

func TestFault_WaitEndsWithCaller(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"hang", "slow,delay=1h", "forbidden,delay=1h"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			b := setup(t, simulator.Config{Faults: faults(t, fault)})
			b.Bind(user, simulator.Device{DeviceID: "d-1"})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			r := b.request(http.MethodDelete, prefix+"/device/d-1", "").WithContext(ctx)
			go func() {
				_, err := b.send(r)
				ended <- err
			}()
			eventually(t, "the request is held up", func() bool { return len(b.Stats().Faults) == 1 })
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the request ended with %v; want it cancelled", err)
			}
			eventually(t, "the handler has ended", func() bool { return b.Stats().InFlight == 0 })
			if st := b.Stats(); st.Answers[0] != 1 {
				t.Errorf("answers are %v; want one that was not given", st.Answers)
			}
			wantLeft := 1
			if strings.HasPrefix(fault, "slow") {
				wantLeft = 0
			}
			if n := len(b.Devices(user)); n != wantLeft {
				t.Errorf("%d devices are bound; want %d", n, wantLeft)
			}
		})
	}
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}
