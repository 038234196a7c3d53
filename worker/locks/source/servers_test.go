package source

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
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
)

// One PostgreSQL and one MariaDB serve all tests. Those that kill them are not
// parallel, and so are over before the parallel ones go on.

func TestMain(m *testing.M) { goleak.VerifyTestMain(thenStop{m}) }

type thenStop struct{ m *testing.M }

// Run implements goleak.TestingM: the servers are stopped before goroutines are
// counted.
func (s thenStop) Run() int {
	code := s.m.Run()
	started.Lock()
	defer started.Unlock()
	for _, d := range started.databases {
		_ = d.admin.Close()
		d.kill(syscall.SIGKILL)
		_ = os.RemoveAll(d.dir)
	}
	return code
}

var started struct {
	sync.Mutex

	databases []*database
}

const (
	adminPassword = "adm1n-passw0rd"
	startTimeout  = time.Minute
	// What the server's own time zone is: nobody's, and with odd minutes.
	oddZone = "+05:45"
)

// database is a server process of the test's own.
type database struct {
	name  string
	bin   string
	args  []string
	dir   string
	port  int
	admin *sql.DB
	// dsn is for the administrator; user, password and address may be replaced.
	scheme, user, path string

	cmd    *exec.Cmd
	output *redistest.Buffer
	exited chan struct{}
}

func (d *database) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port)) }

func (d *database) dsn() string { return d.dsnAs(d.user, adminPassword) }

func (d *database) dsnAs(name, password string) string {
	return d.scheme + "://" + name + ":" + password + "@" + d.addr() + "/" + d.path
}

var (
	postgresOnce = sync.OnceValues(startPostgres)
	mariaOnce    = sync.OnceValues(startMariaDB)
)

func need(t *testing.T, once func() (*database, error)) *database {
	t.Helper()
	d, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// both are for tests of what is true of either.
func both(t *testing.T) []*database {
	t.Helper()
	return []*database{need(t, postgresOnce), need(t, mariaOnce)}
}

func startPostgres() (*database, error) {
	bin, err := lookFor("postgres", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin")
	if err != nil {
		return nil, errors.New("this test needs PostgreSQL, and no postgres is on PATH or in /usr/lib/postgresql; `make test` installs it, or: apt-get install postgresql")
	}
	d, err := newDatabase("PostgreSQL", bin)
	if err != nil {
		return nil, err
	}
	d.scheme, d.user, d.path = "postgres", "admin", "postgres?sslmode=disable"
	data, password := filepath.Join(d.dir, "data"), filepath.Join(d.dir, "password")
	if err := os.WriteFile(password, []byte(adminPassword), 0o644); err != nil {
		return nil, err
	}
	if err := d.prepare(filepath.Join(filepath.Dir(bin), "initdb"), "-D", data, "-U", d.user, "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, err
	}
	d.args = []string{
		"-D", data, "-p", strconv.Itoa(d.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "autovacuum=off", "-c", "timezone=<" + oddZone + ">-05:45", "-c", "datestyle=SQL,DMY",
	}
	return d.launched("pgx", d.dsn())
}

func startMariaDB() (*database, error) {
	bin, err := lookFor("mariadbd", "/usr/sbin", "/usr/libexec", "/opt/homebrew/opt/mariadb/bin", "/usr/local/opt/mariadb/bin")
	install, errInstall := lookFor("mariadb-install-db", "/usr/bin", "/opt/homebrew/opt/mariadb/bin", "/usr/local/opt/mariadb/bin")
	if err != nil || errInstall != nil {
		return nil, errors.New("this test needs MariaDB, and no mariadbd with mariadb-install-db is on PATH; `make test` installs it, or: apt-get install mariadb-server-core mariadb-client-core")
	}
	d, err := newDatabase("MariaDB", bin)
	if err != nil {
		return nil, err
	}
	d.scheme, d.user, d.path = "mysql", "admin", "test"
	data, setup := filepath.Join(d.dir, "data"), filepath.Join(d.dir, "setup.sql")
	if err := os.WriteFile(setup, []byte(`CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS admin@'%' IDENTIFIED BY '`+adminPassword+`';
GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION;
`), 0o644); err != nil {
		return nil, err
	}
	if err := d.prepare(install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db"); err != nil {
		return nil, err
	}
	d.args = []string{
		"--no-defaults", "--datadir=" + data, "--port=" + strconv.Itoa(d.port), "--bind-address=127.0.0.1", "--socket=sock", "--init-file=" + setup,
		"--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--default-time-zone=" + oddZone,
	}
	return d.launched("mysql", d.user+":"+adminPassword+"@tcp("+d.addr()+")/"+d.path+"?multiStatements=true")
}

// lookFor finds a program on PATH or, in its newest version, where distributions
// put it.
func lookFor(name string, folders ...string) (string, error) {
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

// newDatabase makes a folder for the one whom the server runs as.
func newDatabase(name, bin string) (*database, error) {
	dir, err := os.MkdirTemp("", "locks-source-")
	if err != nil {
		return nil, err
	}
	d := &database{name: name, bin: bin, dir: dir}
	if who := credential(); who != nil {
		err = os.Chown(dir, int(who.Uid), int(who.Gid))
	}
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d.port = l.Addr().(*net.TCPAddr).Port
	return d, l.Close()
}

// credential is whom the servers run as: both refuse to be root.
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

func (d *database) command(bin string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, args...)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+d.dir, "TMPDIR="+d.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	return cmd
}

func (d *database) prepare(bin string, args ...string) error {
	if out, err := d.command(bin, args...).CombinedOutput(); err != nil {
		_ = os.RemoveAll(d.dir)
		return fmt.Errorf("%s: %w\n%s", filepath.Base(bin), err, out)
	}
	return nil
}

func (d *database) launched(driver, dsn string) (*database, error) {
	admin, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	admin.SetMaxIdleConns(0) // none is there to break when the server is killed
	d.admin = admin
	started.Lock()
	started.databases = append(started.databases, d)
	started.Unlock()
	return d, d.launch()
}

func (d *database) launch() error {
	output := &redistest.Buffer{}
	cmd := d.command(d.bin, d.args...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	d.cmd, d.output, d.exited = cmd, output, exited
	deadline := time.After(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := d.admin.PingContext(context.Background())
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s exited\n%s", d.name, output)
		case <-deadline:
			return fmt.Errorf("%s does not answer within %s: %w\n%s", d.name, startTimeout, err, output)
		case <-tick.C:
		}
	}
}

// kill ends the server: SIGKILL as a crash would, SIGQUIT as PostgreSQL's
// immediate shutdown, which takes its children along.
func (d *database) kill(sig syscall.Signal) {
	if d.cmd == nil {
		return
	}
	if d.name == "PostgreSQL" {
		sig = syscall.SIGQUIT
	}
	_ = d.cmd.Process.Signal(sig)
	<-d.exited
	d.cmd = nil
}

func (d *database) restart(t *testing.T) {
	t.Helper()
	d.kill(syscall.SIGKILL)
	if err := d.launch(); err != nil {
		t.Fatal(err)
	}
}

func (d *database) exec(t *testing.T, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := d.admin.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// pick is for what the databases write differently.
func (d *database) pick(postgres, maria string) string {
	if d.name == "PostgreSQL" {
		return postgres
	}
	return maria
}

// table makes a table of locks; each is dropped with its test.
func (d *database) table(t *testing.T, name string) {
	t.Helper()
	d.exec(t, "CREATE TABLE "+name+" (user_id VARCHAR(128), lock_id VARCHAR(80), expires_at "+d.pick("timestamptz", "TIMESTAMP(6) NULL")+", PRIMARY KEY (lock_id, user_id))")
	t.Cleanup(func() { _, _ = d.admin.ExecContext(context.Background(), "DROP TABLE "+name) })
}

func (d *database) open(t *testing.T, query string) *SQL {
	t.Helper()
	s, err := Open(t.Context(), d.dsn(), query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
