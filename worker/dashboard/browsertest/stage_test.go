//go:build browser

package browsertest

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// stage is a dashboard with all that is behind it. alice is an operator, bob a viewer.
type stage struct {
	t         *testing.T
	redis     *redistest.Server
	rdb       *redis.Client
	koodrive  *simulator.Simulator
	env       []string
	users     string // file
	dashboard *process
	url       string // of the dashboard, without a slash at its end
}

// soon is how long something may take that takes a moment, on a slow and busy machine.
const soon = 30 * time.Second

// newStage starts all but a worker.
func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, redis: redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always"), users: filepath.Join(t.TempDir(), "users")}
	s.rdb = s.redis.Client()
	var err error
	if s.koodrive, err = simulator.New(simulator.Config{}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.koodrive)
	t.Cleanup(server.Close)
	s.env = append(os.Environ(), "REDIS_URL="+s.redis.URL(), "KOODRIVE_URL="+server.URL, "KOODRIVE_TOKEN=token-of-the-tests")
	var lines strings.Builder
	for name, role := range map[string]string{"alice": "operator", "bob": "viewer"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(password(name)), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s:%s:%s\n", name, hash, role)
	}
	if err := os.WriteFile(s.users, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.startDashboard("127.0.0.1:0")
	return s
}

// with returns the stage for a part of a test.
func (s *stage) with(t *testing.T) *stage {
	t.Helper()
	part := *s
	part.t = t
	return &part
}

func password(user string) string { return "secret-of-" + user }

var listens = regexp.MustCompile(`listens on (http://[^/\s]+)/`)

// startDashboard starts the dashboard, and waits until it listens.
func (s *stage) startDashboard(addr string) {
	s.t.Helper()
	s.dashboard = s.start("dashboard", "--addr", addr, "--users-file", s.users)
	redistest.Eventually(s.t, soon, "the dashboard listens", func() bool {
		found := listens.FindStringSubmatch(s.dashboard.out.String())
		if found != nil {
			s.url = found[1]
		}
		return found != nil
	})
}

// restartDashboard starts a dashboard that was killed, on the same port.
func (s *stage) restartDashboard() {
	s.t.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.startDashboard(u.Host)
}

// startWorker starts a worker that tries a task twice.
func (s *stage) startWorker() {
	s.t.Helper()
	s.start("worker", "--max-attempts", "2", "--backoff-first", "1s")
}

// process is a kooworker that runs.
type process struct {
	cmd    *exec.Cmd
	out    redistest.Buffer
	exited chan struct{}
}

func (s *stage) start(args ...string) *process {
	s.t.Helper()
	p := &process{cmd: exec.Command(binary, args...), exited: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = s.env, &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { defer close(p.exited); _ = p.cmd.Wait() }()
	s.t.Cleanup(func() {
		p.kill()
		if s.t.Failed() {
			log := p.out.String()
			s.t.Logf("the end of the log of kooworker %s:\n%s", args[0], log[max(len(log)-2000, 0):])
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // fails if it has ended
	<-p.exited
}

// kooworker runs a command to its end.
func (s *stage) kooworker(stdin string, args ...string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), binary, args...)
	cmd.Env = s.env
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("kooworker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// unbind enqueues unbinds of devices that the users have.
func (s *stage) unbind(batchID string, of map[string]int, args ...string) {
	s.t.Helper()
	var file strings.Builder
	file.WriteString("user_id,device_id\n")
	for user, n := range of {
		for range n {
			fmt.Fprintf(&file, "%s,%s\n", user, s.koodrive.Bind(user, simulator.Device{}).DeviceID)
		}
	}
	args = append([]string{"enqueue", "unbind", "--file", "-"}, args...)
	if batchID != "" {
		args = append(args, "--batch", batchID)
	}
	s.kooworker(file.String(), args...)
}

// fault makes KooDrive misbehave; see simulator.ParseFault.
func (s *stage) fault(text string) {
	s.t.Helper()
	fault, err := simulator.ParseFault(text)
	if err == nil {
		err = s.koodrive.AddFault(fault)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// letters returns the dead letters that match.
func (s *stage) letters(f deadletter.Filter) (out []deadletter.Letter) {
	s.t.Helper()
	for letter, err := range deadletter.NewStore(s.rdb).List(s.t.Context(), f) {
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, letter)
	}
	return out
}

func (s *stage) awaitLetters(n int) {
	s.t.Helper()
	redistest.Eventually(s.t, soon, fmt.Sprint(n, " dead letters"), func() bool { return len(s.letters(deadletter.Filter{})) == n })
}

func (s *stage) batch(id string) tasks.BatchStats {
	s.t.Helper()
	stats, err := batch.NewStore(s.rdb).Show(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return stats
}

// changes returns the audit log, the latest first.
func (s *stage) changes() []audit.Entry {
	s.t.Helper()
	page, err := audit.New(s.rdb, zap.NewNop()).List(s.t.Context(), "", 100)
	if err != nil {
		s.t.Fatal(err)
	}
	return page.Entries
}

// devices is how many devices a user still has.
func (s *stage) devices(user string) int { return len(s.koodrive.Devices(user)) }
