package main

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// tick is the task of a sweep, and when it was enqueued.
type tick struct {
	id       string
	slot, at time.Time
}

// span is a sweep, from acquiring the lease to releasing it.
type span struct{ from, to time.Time }

// trace records what Redis was told to do, in order.
type trace struct {
	mu       sync.Mutex
	ticks    []tick
	leases   []lease
	problems []string
}

// lease is one change of the lease. An empty owner releases it.
type lease struct {
	owner string
	life  time.Duration
	at    time.Time
}

// traceRedis records the commands of a Redis until the test ends.
func traceRedis(t *testing.T, server *redistest.Server) *trace {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		t.Fatal(err)
	}
	if ok, err := reader.ReadString('\n'); err != nil || ok != "+OK\r\n" {
		t.Fatalf("MONITOR: %q, %v; want +OK", ok, err)
	}
	tr := &trace{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			text, err := reader.ReadString('\n')
			if err != nil {
				return
			}
			tr.read(text)
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return tr
}

// read reads a line of MONITOR such as +1795391234.123456 [0 lua] "SET" "key" "value".
func (tr *trace) read(text string) {
	when, rest, _ := strings.Cut(strings.TrimPrefix(text, "+"), " ")
	_, rest, _ = strings.Cut(rest, "] ")
	var args []string
	for len(args) < 6 {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			break
		}
		arg, err := strconv.Unquote(quoted)
		if err != nil {
			break
		}
		args, rest = append(args, arg), strings.TrimLeft(rest[len(quoted):], " ")
	}
	if len(args) < 2 {
		return
	}
	isNew := len(args) == 6 && args[2] == "msg" && args[5] == "pending" // not one that is put back
	const taskPrefix, leaseKey = "asynq:{" + tasks.QueueSweep + "}:t:", "{kooworker:locks}:sweeping"
	id, isTask := strings.CutPrefix(args[1], taskPrefix)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	seconds, micros, _ := strings.Cut(when, ".")
	sec, err1 := strconv.ParseInt(seconds, 10, 64)
	usec, err2 := strconv.ParseInt(micros, 10, 64)
	at := time.Unix(sec, usec*1000)
	if err1 != nil || err2 != nil {
		tr.problems = append(tr.problems, text)
	}
	switch command := strings.ToUpper(args[0]); {
	case command == "HSET" && isTask && isNew:
		slot, err := time.Parse(time.RFC3339, id[max(0, len(id)-len("2006-01-02T15:04:05Z")):])
		if err != nil {
			tr.problems = append(tr.problems, fmt.Sprintf("a sweep has the task ID %s; want a time at its end", id))
		}
		tr.ticks = append(tr.ticks, tick{id: id, slot: slot, at: at})
	case command == "SET" && args[1] == leaseKey && len(args) == 5:
		ms, err := strconv.Atoi(args[4])
		if err != nil {
			tr.problems = append(tr.problems, text)
		}
		tr.leases = append(tr.leases, lease{owner: args[2], life: time.Duration(ms) * time.Millisecond, at: at})
	case command == "DEL" && args[1] == leaseKey:
		tr.leases = append(tr.leases, lease{at: at})
	}
}

func (tr *trace) ticked() []tick {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.ticks)
}

// sweeps returns the times during which somebody held the lease. Nobody may acquire
// it while somebody else holds it.
func (tr *trace) sweeps(t *testing.T) (out []span) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, problem := range tr.problems {
		t.Error(problem)
	}
	owner, until := "", time.Time{}
	for _, l := range tr.leases {
		switch {
		case l.owner == "":
			out[len(out)-1].to, owner = l.at, ""
		case l.owner != owner && owner != "" && l.at.Before(until):
			t.Errorf("%s acquires the lease at %s while %s holds it; want one owner at a time", l.owner, l.at, owner)
			fallthrough
		case l.owner != owner:
			out = append(out, span{from: l.at})
			fallthrough
		default:
			owner, until = l.owner, l.at.Add(l.life)
			out[len(out)-1].to = until
		}
	}
	return out
}
