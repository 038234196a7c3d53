package main

import (
	"context"
	"encoding/json"
	"flag"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
	"github.com/kooworker/kooworker/worker/locks/source/sourcetest"
)

// asKooworker makes the test binary run as kooworker, for tests that need a process.
const asKooworker = "KOOWORKER_TEST_AS_MAIN"

// asVersion is the version that such a process takes itself for.
const asVersion = "KOOWORKER_TEST_VERSION"

// profileFolder names a folder to which such a worker writes its CPU profile, for `make
// bench-profile`.
const profileFolder = "KOOWORKER_TEST_PROFILES"

func TestMain(m *testing.M) {
	if os.Getenv(asKooworker) != "" {
		version = os.Getenv(asVersion)
		folder := os.Getenv(profileFolder)
		for _, name := range []string{asKooworker, asVersion, profileFolder} { // kooworker does not know them
			_ = os.Unsetenv(name)
		}
		if folder != "" && os.Args[1] == "worker" {
			os.Exit(runProfiled(folder))
		}
		main()
	}
	waitTogether()
	// go-redis keeps dialling for a second after its client was closed.
	goleak.VerifyTestMain(sourcetest.ThenStop(m), goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// waitTogether lets twice as many tests run at a time as there are processors, unless -parallel
// says otherwise: most of them wait for the processes that they have started.
func waitTogether() {
	flag.Parse() //nolint:revive // TestMain calls this, which is the main of tests
	isSet := false
	flag.Visit(func(f *flag.Flag) { isSet = isSet || f.Name == "test.parallel" })
	if !isSet {
		_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
}

// runProfiled is main with a CPU profile.
func runProfiled(folder string) (code int) {
	file, err := os.CreateTemp(folder, "worker-*.pprof")
	if err == nil {
		err = pprof.StartCPUProfile(file)
	}
	if err != nil {
		panic(err)
	}
	defer pprof.StopCPUProfile()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// result is what a run of the command line returns and prints.
type result struct {
	code           int
	stdout, stderr string
}

// kooworker runs a command line in this process.
func kooworker(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	var stdout, stderr redistest.Buffer // safe for concurrent use: the process has one go-redis logger, and a parallel test may write here
	code := run(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// object decodes the one JSON object on stdout.
func (r result) object(t *testing.T) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v\n%+v; want one JSON object on stdout", err, r)
	}
	return out
}

// lines decodes JSON lines on stdout.
func (r result) lines(t *testing.T) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(r.stdout) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("%v\n%+v; want JSON lines on stdout", err, r)
		}
		out = append(out, object)
	}
	return out
}

func keys(object map[string]any) map[string]bool {
	out := map[string]bool{}
	for key := range object {
		out[key] = true
	}
	return out
}

// process is kooworker as a process of its own.
type process struct {
	cmd    *exec.Cmd
	stderr redistest.Buffer
}

func (p *process) log() string { return p.stderr.String() }

func startProcess(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(append(os.Environ(), asKooworker+"=1"), env...)
	p.cmd.Stderr = &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// end sends a signal and returns the exit code.
func (p *process) end(t *testing.T, sig syscall.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// startSimulator serves a KooDrive that expects the token "t0ken".
func startSimulator(t *testing.T, faults ...string) (sim *simulator.Simulator, url string) {
	t.Helper()
	cfg := simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, Token: "t0ken"}}
	for _, text := range faults {
		fault, err := simulator.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Faults = append(cfg.Faults, fault)
	}
	return serveSimulator(t, cfg)
}

// serveSimulator serves a simulator until the test ends.
func serveSimulator(t *testing.T, cfg simulator.Config) (sim *simulator.Simulator, url string) {
	t.Helper()
	sim, err := simulator.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- serveHTTP(ctx, listener, sim) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the simulator ended with %v; want no error", err)
		}
	})
	return sim, "http://" + listener.Addr().String()
}

// startWorker runs a worker process until the test ends.
func startWorker(t *testing.T, server *redistest.Server, url string, args ...string) *process {
	t.Helper()
	args = append([]string{"worker", "--redis-url", server.URL(), "--koodrive-url", url, "--concurrency", "8", "--backoff-first", "1s"}, args...)
	p := startProcess(t, []string{"KOODRIVE_TOKEN=t0ken"}, args...)
	redistest.Eventually(t, 20*time.Second, "the worker runs", func() bool { return strings.Contains(p.log(), "worker is running") })
	return p
}
