package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// screen shows what a terminal would show of its output.
type screen struct {
	lines    [][]rune
	row, col int
	unknown  []string // sequences that it does not know
}

// sequence matches an escape sequence at the beginning.
var sequence = regexp.MustCompile(`^\x1b\[([0-9;?]*)([A-Za-z])`)

func newScreen(output string) *screen {
	s := &screen{}
	for output != "" {
		if found := sequence.FindStringSubmatch(output); found != nil {
			s.obey(found[1], found[2])
			output = output[len(found[0]):]
			continue
		}
		char := []rune(output)[0]
		output = output[len(string(char)):]
		switch char {
		case '\r':
			s.col = 0
		case '\n':
			s.row++
		default:
			line := s.line()
			for len(line) <= s.col {
				line = append(line, ' ')
			}
			line[s.col] = char
			s.lines[s.row] = line
			s.col++
		}
	}
	return s
}

func (s *screen) line() []rune {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, nil)
	}
	return s.lines[s.row]
}

// obey carries out an escape sequence.
func (s *screen) obey(parameter, command string) {
	line := s.line()
	switch parameter + command {
	case "J": // erase to the end of the screen
		s.lines = s.lines[:s.row+1]
		fallthrough
	case "K": // erase to the end of the line
		s.lines[s.row] = line[:min(s.col, len(line))]
	case "1A": // up
		s.row = max(0, s.row-1)
	default:
		if command != "m" { // a colour
			s.unknown = append(s.unknown, parameter+command)
		}
	}
}

// text returns the lines without what is empty at the end.
func (s *screen) text() string {
	var out strings.Builder
	for _, line := range s.lines {
		out.WriteString(strings.TrimRight(string(line), " ") + "\n")
	}
	return strings.TrimRight(out.String(), "\n")
}

// onTerminal is kooworker on a terminal of its own.
type onTerminal struct {
	*process
	terminal *os.File
	output   redistest.Buffer
	ended    chan struct{}
}

func startOnTerminal(t *testing.T, stdin io.Reader, env []string, args ...string) *onTerminal {
	t.Helper()
	p := &onTerminal{process: &process{cmd: exec.Command(os.Args[0], args...)}, ended: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asKooworker+"=1", "TERM=xterm"), env...)
	p.cmd.Stdin = stdin // nil: the terminal
	terminal, err := pty.StartWithAttrs(p.cmd, &pty.Winsize{Rows: 50, Cols: 200}, &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1})
	if err != nil {
		t.Fatal(err)
	}
	p.terminal = terminal
	go func() {
		defer close(p.ended)
		_, _ = io.Copy(&p.output, terminal) // ends with the process
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.ended; _ = terminal.Close() })
	return p
}

// asksRedis waits until the process has a socket. It obeys Ctrl-C by then.
func (p *onTerminal) asksRedis(t *testing.T) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	redistest.Eventually(t, 30*time.Second, "the process has a socket", func() bool {
		files, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(files, func(file os.DirEntry) bool {
			target, err := os.Readlink(filepath.Join(folder, file.Name()))
			return err == nil && strings.HasPrefix(target, "socket:")
		})
	})
}

// shows waits until the terminal shows a text.
func (p *onTerminal) shows(t *testing.T, text string) {
	t.Helper()
	redistest.Eventually(t, 30*time.Second, "the terminal shows "+text, func() bool { return strings.Contains(newScreen(p.output.String()).text(), text) })
}

// press types on the terminal, as a person does.
func (p *onTerminal) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(p.terminal, keys); err != nil {
		t.Fatal(err)
	}
}

const ctrlC = "\x03"

func TestInterrupt_LeavesACleanTerminal(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, id := range []string{"b-1", "b-2"} {
		if r := kooworker(t, "user_id,device_id\nu,1\nu,2\n", "enqueue", "unbind", "--file", "-", "--batch", id, "--redis-url", server.URL()); r.code != exitDone {
			t.Fatalf("%+v; want exit 0", r)
		}
	}
	dead := redistest.Start(t)
	for i := range 30 {
		task := tasks.DeviceUnbind{UserID: "u", DeviceID: strconv.Itoa(i)}
		payload, err := tasks.Encode(task, tasks.Intent{})
		if err != nil {
			t.Fatal(err)
		}
		if err := deadletter.NewStore(dead.Client()).Park(t.Context(), deadletter.Letter{
			ID: tasks.Identity(task), Kind: task.Kind(), Queue: task.Queue(), Payload: payload, UserID: "u", Target: task.DeviceID,
			Reason: tasks.Forbidden, Error: "forbidden", Attempts: 1, DeadAt: time.Now(),
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, sim := startSimulator(t)
	parker := startWorker(t, dead, sim)
	inspector := asynq.NewInspectorFromRedisClient(dead.Client())
	redistest.Eventually(t, 20*time.Second, "all letters are parked", func() bool {
		info, err := inspector.GetQueueInfo(tasks.QueueDeadLetter)
		return err == nil && info.Retry == 30 && info.Active == 0
	})
	if code := parker.end(t, syscall.SIGTERM); code != exitDone {
		t.Fatalf("the worker ends with %d; want 0\n%s", code, parker.log())
	}
	for _, tc := range []struct {
		args  string
		stdin string // beginning of an input that does not end; empty: the terminal
		shown string // when Ctrl-C is pressed
		last  string // what the last line begins with
		code  int
	}{
		{"enqueue unbind --file - --batch b-3", "user_id,device_id\nu,1\nu,2\nu\n", "3 lines, ", "kooworker: interrupted after 3 lines; run the same command again with --batch b-3", exitFailed},
		{"enqueue unbind --user-id u --device-id d --wait", "", "0 of 1 task", "kooworker: interrupted; the batch itself continues, and kooworker batch watch ", exitFailed},
		{"batch watch b-1", "", "0 of 2 tasks", "kooworker: interrupted; the batch itself continues, and kooworker batch watch b-1 continues waiting", exitFailed},
		{"batch wait b-1", "", "", "kooworker: interrupted; the batch itself continues, and kooworker batch watch b-1 continues waiting", exitFailed},
		{"batch receipts b-1 --follow", "", "", "kooworker: interrupted: not all receipts were written; the same command writes all of them", exitFailed},
		{"locks track --file -", "user_id,lock_id\nu,1@102\nu\n", "rejected: line 3", "kooworker: interrupted; so far 1 rejected; it is safe to run the same command again", exitFailed},
		{"dead replay --all --rate 1", "", "", "kooworker: interrupted; what was not replayed is dead as before", exitFailed},
		{"dead discard --all", "", "[y/N]", "kooworker: interrupted: nothing was discarded", exitFailed},
		{"demo --tasks 5000", "", "/s, ", "kooworker: the demo did not finish: interrupt signal received", exitFailed},
		{"demo --tasks 60 --stay", "", "Press Ctrl-C", "Stopped.", exitDone},
		{"worker --koodrive-url " + sim, "", "worker is running", "* INFO stopped", exitDone},
		{"scheduler --sweep-every 1h", "", "sweeps are scheduled", "* INFO scheduler stopped", exitDone},
		{"simulator --addr 127.0.0.1:0", "", "simulator listens", "* INFO simulator stopped", exitDone},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			url := server.URL()
			switch strings.Fields(tc.args)[0] {
			case "dead":
				url = dead.URL()
			case "worker", "scheduler":
				url = redistest.Start(t).URL()
			}
			var stdin io.Reader
			if tc.stdin != "" {
				reader, writer, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = writer.Close(); _ = reader.Close() })
				if _, err := writer.WriteString(tc.stdin); err != nil {
					t.Fatal(err)
				}
				stdin = reader
			}
			p := startOnTerminal(t, stdin, []string{"REDIS_URL=" + url, "KOODRIVE_TOKEN=t0ken"}, strings.Fields(tc.args)...)
			if tc.shown == "" {
				p.asksRedis(t)
			} else {
				p.shows(t, tc.shown)
			}
			letTimePass(700 * time.Millisecond) // it may draw, or write, at any time
			if strings.Contains(tc.shown, " task") {
				p.press(t, "keys") // the terminal shows them where the cursor is
				letTimePass(300 * time.Millisecond)
			}
			p.press(t, ctrlC)
			_ = p.cmd.Wait()
			letTimePass(100 * time.Millisecond)
			s := newScreen(p.output.String())
			t.Log(s.text())
			lines := strings.Split(s.text(), "\n")
			last := lines[len(lines)-1]
			want, isLog := strings.CutPrefix(tc.last, "* ")
			if isLog {
				last = strings.Join(strings.Fields(last), " ")
			}
			if code := p.cmd.ProcessState.ExitCode(); code != tc.code || !strings.HasPrefix(last, want) && !(isLog && strings.Contains(last, want)) {
				t.Errorf("exit %d, last line %q; want exit %d and %q", code, last, tc.code, tc.last)
			}
			if s.col != 0 || strings.Contains(s.text(), "^C") || len(s.unknown) > 0 {
				t.Errorf("the cursor is in column %d, unknown sequences %q; want it at the start of a line, and no ^C:\n%s\n%q", s.col, s.unknown, s.text(), p.output.String())
			}
			if bars := strings.Count(s.text(), "/s, "); bars > 1 {
				t.Errorf("%d lines of progress; want one at most:\n%s", bars, s.text())
			}
		})
	}
}

// After an interrupt nothing is wrong with Redis.
func TestInterrupt_OfAShortCommand(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range []string{
		"batch list", "batch list --json", "batch show b", "batch audit b", "batch delete b", "dead list", "dead stats", "dead export",
		"enqueue unbind --user-id u --device-id d", "locks renew --user-id u --lock-id 1@102", "locks list",
	} {
		var stderr redistest.Buffer
		code := run(ctx, append(strings.Fields(args), "--redis-url", server.URL()), strings.NewReader(""), io.Discard, &stderr)
		if want := "kooworker: interrupted; it is safe to run the same command again\n"; code != exitFailed || stderr.String() != want {
			t.Errorf("%s: exit %d, %q; want exit 1 and %q", args, code, stderr.String(), want)
		}
	}
}
