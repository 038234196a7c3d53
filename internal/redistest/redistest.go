// Package redistest gives a test a real redis-server of its own: started on
// loopback in a temporary folder, stopped when the test ends. It is for tests
// only and knows nothing of kooworker.
//
// A machine without redis-server fails the test and is told what to install:
// a queue that was never tested against Redis was not tested.
package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// startTimeout bounds how long a server may take to answer its first PING, on
// a machine that runs every package's tests at once.
const startTimeout = 30 * time.Second

// Server is one redis-server process.
type Server struct {
	tb   testing.TB
	bin  string
	dir  string
	port int
	bus  int // the port of a cluster's bus; 0 if the server is in no cluster
	args []string

	cmd    *exec.Cmd
	output *Buffer
	exited chan struct{}
}

// Start starts a server. The args are appended to its command line, for example
// "--appendonly", "yes". Without any it persists nothing and does not evict.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	return start(tb, false, args)
}

func start(tb testing.TB, inCluster bool, args []string) *Server {
	tb.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		tb.Fatal("this test needs redis-server, and none is on PATH; `make test` installs it, or: apt-get install redis-server")
	}
	s := &Server{tb: tb, bin: bin, dir: tb.TempDir(), args: args}
	tb.Cleanup(s.Kill)
	const tries = 5 // somebody else may take the port between our look and the server's
	for range tries {
		s.port = freePort(tb)
		if inCluster {
			s.bus = freePort(tb)
		}
		if err = s.launch(); err == nil {
			return s
		}
	}
	tb.Fatalf("redis-server does not start: %v", err)
	return nil
}

// Addr returns host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL returns the redis:// URL of database 0.
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// Options returns the options of a client that honours contexts. Each client needs its
// own: go-redis keeps handlers in them, and complains if they are there already.
func (s *Server) Options() *redis.Options {
	return &redis.Options{Addr: s.Addr(), ContextTimeoutEnabled: true, DialerRetries: 1, PoolSize: 64}
}

// Client returns a client with Options. It is closed when the test ends.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(s.Options())
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Kill ends the server with SIGKILL, as a crash would. What it had persisted
// stays for Restart.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT) // a frozen process would not be reaped
	_ = s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// Restart starts the server again on the same port and folder.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	if err := s.launch(); err != nil {
		s.tb.Fatalf("redis-server does not start again: %v", err)
	}
}

// Freeze stops the process without ending it: connections stay open and
// nothing answers.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("signal redis-server: %v", err)
	}
}

func (s *Server) launch() error {
	args := append([]string{
		"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
	}, s.args...)
	if s.bus > 0 {
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(s.bus))
	}
	s.output = &Buffer{}
	cmd := exec.Command(s.bin, args...) //nolint:gosec,noctx // a test's own server, ended by Kill
	cmd.Stdout, cmd.Stderr = s.output, s.output
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	if err := s.awaitPong(); err != nil {
		s.Kill()
		return fmt.Errorf("%w\n%s", err, s.output)
	}
	return nil
}

func (s *Server) awaitPong() error {
	deadline := time.After(startTimeout)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.pong() {
			select {
			case <-s.exited: // somebody else's server took the port and answers there
				return errors.New("it exited")
			default:
				return nil
			}
		}
		select {
		case <-s.exited:
			return errors.New("it exited")
		case <-deadline:
			return fmt.Errorf("no PONG within %s", startTimeout)
		case <-tick.C:
		}
	}
}

// pong asks without a client, which would log every refused connection.
func (s *Server) pong() bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(s.tb.Context(), "tcp", s.Addr())
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && line == "+PONG\r\n"
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed on the next line
	if err != nil {
		tb.Fatalf("no free port: %v", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
