package sourcetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
)

const (
	// Password is the administrator's. No output may show it.
	Password     = "adm1n-passw0rd"
	startTimeout = time.Minute
	// oddZone is the servers' own time zone. It is no whole number of hours from UTC,
	// so that a time which is read in the wrong zone shows.
	oddZone = "+05:45"
)

// Server is one database server process.
type Server struct {
	// Name is PostgreSQL or MariaDB.
	Name string
	// Scheme is that of its DSN, and User the administrator.
	Scheme, User string
	// Port is where it listens, on loopback.
	Port int
	// Admin is a pool of the administrator, in the server's own time zone. It keeps
	// no idle connection that could break with the server.
	Admin *sql.DB

	bin  string
	args []string
	dir  string
	path string

	mu     sync.Mutex // while it starts or is killed
	cmd    *exec.Cmd  // nil if it does not run
	exited chan struct{}
}

var started struct {
	sync.Mutex

	servers []*Server
}

var (
	postgresOnce = sync.OnceValues(startPostgres)
	mariaOnce    = sync.OnceValues(startMariaDB)
)

// Both returns both servers, for tests that must pass with either.
func Both(tb testing.TB) []*Server {
	tb.Helper()
	var both []*Server
	for _, once := range []func() (*Server, error){postgresOnce, mariaOnce} {
		s, err := once()
		if err != nil {
			tb.Fatal(err)
		}
		both = append(both, s)
	}
	return both
}

// ThenStop returns what runs m and then stops the servers, for
// goleak.VerifyTestMain, which counts goroutines after Run.
func ThenStop(m *testing.M) goleak.TestingM { return thenStop{m} }

type thenStop struct{ m *testing.M }

// Run implements goleak.TestingM.
func (s thenStop) Run() int {
	code := s.m.Run()
	started.Lock()
	defer started.Unlock()
	for _, s := range started.servers {
		_ = s.Admin.Close()
		s.Kill()
		_ = os.RemoveAll(s.dir)
	}
	return code
}

// Addr returns host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// DSN returns the administrator's DSN.
func (s *Server) DSN() string { return s.DSNAs(s.User, Password) }

// DSNAs returns the DSN of a user. The password must have the form that a URL needs.
func (s *Server) DSNAs(name, password string) string {
	return s.Scheme + "://" + name + ":" + password + "@" + s.Addr() + "/" + s.path
}

// DSNAt returns the administrator's DSN with another address.
func (s *Server) DSNAt(addr string) string { return strings.Replace(s.DSN(), s.Addr(), addr, 1) }

// Pick returns the text for this server, where the SQL of the two differs.
func (s *Server) Pick(postgres, maria string) string {
	if s.Name == "PostgreSQL" {
		return postgres
	}
	return maria
}

// Exec runs statements as the administrator.
func (s *Server) Exec(tb testing.TB, statements ...string) {
	tb.Helper()
	for _, text := range statements {
		if _, err := s.Admin.ExecContext(tb.Context(), text); err != nil {
			tb.Fatalf("%s: %v", text, err)
		}
	}
}

// Table makes a table of locks without any index. It is dropped after the test.
func (s *Server) Table(tb testing.TB, name string) {
	tb.Helper()
	s.Exec(tb, "CREATE TABLE "+name+" (user_id VARCHAR(128), lock_id VARCHAR(80), expires_at "+s.Pick("timestamptz", "TIMESTAMP(6) NULL")+")")
	tb.Cleanup(func() { _, _ = s.Admin.ExecContext(context.Background(), "DROP TABLE "+name) })
}

// Kill ends the server as a crash would: MariaDB with SIGKILL, and PostgreSQL
// with an immediate shutdown, which also ends its child processes. Committed data
// stays for Restart.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

func (s *Server) kill() {
	if s.cmd == nil {
		return
	}
	if s.Name == "PostgreSQL" {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	} else {
		_ = s.cmd.Process.Kill()
	}
	<-s.exited
	s.cmd = nil
}

// Restart kills the server if it runs, and starts it with the same port and folder.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
	if err := s.launch(); err != nil {
		tb.Fatal(err)
	}
}

func startPostgres() (*Server, error) {
	bin, err := findProgram("postgres", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin")
	if err != nil {
		return nil, errors.New("this test needs PostgreSQL, and no postgres is on PATH or in /usr/lib/postgresql; `make test` installs it, or: apt-get install postgresql")
	}
	s, err := newServer("PostgreSQL", bin)
	if err != nil {
		return nil, err
	}
	s.Scheme, s.User, s.path = "postgres", "admin", "postgres?sslmode=disable"
	data, password := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(Password), 0o644); err != nil {
		return nil, err
	}
	if err := s.prepare(filepath.Join(filepath.Dir(bin), "initdb"), "-D", data, "-U", s.User, "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, err
	}
	s.args = []string{
		"-D", data, "-p", strconv.Itoa(s.Port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "autovacuum=off", "-c", "timezone=<" + oddZone + ">-05:45", "-c", "datestyle=SQL,DMY",
	}
	return s.launched("pgx", s.DSN())
}

func startMariaDB() (*Server, error) {
	bin, err := findProgram("mariadbd", "/usr/sbin", "/usr/libexec", "/opt/homebrew/opt/mariadb/bin", "/usr/local/opt/mariadb/bin")
	install, errInstall := findProgram("mariadb-install-db", "/usr/bin", "/opt/homebrew/opt/mariadb/bin", "/usr/local/opt/mariadb/bin")
	if err != nil || errInstall != nil {
		return nil, errors.New("this test needs MariaDB, and no mariadbd with mariadb-install-db is on PATH; `make test` installs it, or: apt-get install mariadb-server-core mariadb-client-core")
	}
	s, err := newServer("MariaDB", bin)
	if err != nil {
		return nil, err
	}
	s.Scheme, s.User, s.path = "mysql", "admin", "test"
	data, setup := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "setup.sql")
	if err := os.WriteFile(setup, []byte(`CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS admin@'%' IDENTIFIED BY '`+Password+`';
GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION;
`), 0o644); err != nil {
		return nil, err
	}
	if err := s.prepare(install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db"); err != nil {
		return nil, err
	}
	s.args = []string{
		"--no-defaults", "--datadir=" + data, "--port=" + strconv.Itoa(s.Port), "--bind-address=127.0.0.1", "--socket=sock", "--init-file=" + setup,
		"--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2", "--default-time-zone=" + oddZone,
	}
	return s.launched("mysql", s.User+":"+Password+"@tcp("+s.Addr()+")/"+s.path+"?multiStatements=true")
}

// findProgram finds a program on PATH, or the newest version in the folders where
// distributions put it.
func findProgram(name string, folders ...string) (string, error) {
	bin, err := exec.LookPath(name)
	if err == nil {
		return filepath.EvalSymlinks(bin)
	}
	for _, folder := range folders {
		if found, _ := filepath.Glob(filepath.Join(folder, name)); len(found) > 0 {
			slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) }) // 9 before 17
			return found[len(found)-1], nil
		}
	}
	return "", err
}

// newServer makes a folder that belongs to the user that the server runs as.
func newServer(name, bin string) (*Server, error) {
	dir, err := os.MkdirTemp("", "locks-source-")
	if err != nil {
		return nil, err
	}
	if owner := credential(); owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Server{Name: name, bin: bin, dir: dir, Port: l.Addr().(*net.TCPAddr).Port}, l.Close()
}

// credential returns the user that the servers run as, since they refuse to run as
// root. Nil: the present user.
func credential() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil
	}
	uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func (s *Server) command(bin string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+s.dir, "TMPDIR="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	return cmd
}

func (s *Server) prepare(bin string, args ...string) error {
	if out, err := s.command(bin, args...).CombinedOutput(); err != nil {
		_ = os.RemoveAll(s.dir)
		return fmt.Errorf("%s: %w\n%s", filepath.Base(bin), err, out)
	}
	return nil
}

func (s *Server) launched(driver, dsn string) (*Server, error) {
	admin, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	admin.SetMaxIdleConns(0)
	s.Admin = admin
	started.Lock()
	started.servers = append(started.servers, s)
	started.Unlock()
	return s, s.launch()
}

func (s *Server) launch() error {
	output := &redistest.Buffer{}
	cmd := s.command(s.bin, s.args...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	deadline := time.After(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.Admin.PingContext(context.Background())
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s exited\n%s", s.Name, output)
		case <-deadline:
			return fmt.Errorf("%s does not answer within %s: %w\n%s", s.Name, startTimeout, err, output)
		case <-tick.C:
		}
	}
}
