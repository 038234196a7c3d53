package outage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// A Redis that answers PING may not be able to serve.
func TestAsk_RedisThatCannotServe(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	if err := Ask(t.Context(), rdb, Keys([]string{"unbind", "release"})); err != nil {
		t.Errorf("%v; want an answer", err)
	}
	if n := rdb.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys are left by the question; want none", n)
	}
	do := func(args ...any) {
		t.Helper()
		if err := rdb.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for name, trouble := range map[string][2][]any{
		"full":      {{"CONFIG", "SET", "maxmemory", "1"}, {"CONFIG", "SET", "maxmemory", "0"}},
		"read-only": {{"REPLICAOF", "127.0.0.1", "1"}, {"REPLICAOF", "NO", "ONE"}},
	} {
		do(trouble[0]...)
		err := Ask(t.Context(), rdb, Keys([]string{"unbind"}))
		if err == nil || strings.HasPrefix(Hint(err), "check --redis-url") {
			t.Errorf("%s: %v; want an error with a hint of its own", name, err)
		}
		do(trouble[1]...)
	}
	if err := Ask(t.Context(), rdb, Keys([]string{"unbind"})); err != nil {
		t.Errorf("%v; want an answer again", err)
	}
}

// A user who may not ask gets an answer nevertheless.
func TestAsk_MissingPermissionIsAnAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-zadd").Err(); err != nil {
		t.Fatal(err)
	}
	o := server.Options()
	o.Username, o.Password = "limited", "pw"
	rdb := redis.NewClient(o)
	defer func() { _ = rdb.Close() }()
	if err := rdb.ZAddXX(t.Context(), "k", redis.Z{Member: "m"}).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") || !strings.Contains(Hint(err), "ACL") {
		t.Fatalf("%v; want NOPERM, with a hint of its own", err)
	}
	if err := Ask(t.Context(), rdb, Keys([]string{"unbind"})); err != nil {
		t.Errorf("%v; want an answer", err)
	}
}

func TestAsk_RedisAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	server.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := Ask(ctx, rdb, Keys([]string{"unbind"})); err == nil || reason(err) != "no answer within 2s" {
		t.Errorf("frozen: %v; want no answer within 2s", err)
	}
	server.Kill()
	err := Ask(t.Context(), rdb, Keys([]string{"unbind"}))
	if err == nil || !strings.Contains(reason(err), "connection refused") || !strings.Contains(Hint(err), "redis-cli PING") {
		t.Errorf("killed: %v; want connection refused, and a hint", err)
	}
}

// One of three masters is away.
func TestAsk_EachMasterOfACluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false, "--cluster-node-timeout", "100000")
	rdb := c.Client()
	var queues []string
	for i := range 100 {
		queues = append(queues, fmt.Sprint("q-", i))
	}
	if err := Ask(t.Context(), rdb, Keys(queues)); err != nil {
		t.Fatalf("%v; want an answer", err)
	}
	c.Masters[1].Kill()
	err := Ask(t.Context(), rdb, Keys(queues))
	if err == nil || !strings.Contains(reason(err), c.Masters[1].Addr()) || strings.Contains(reason(err), c.Masters[0].Addr()) {
		t.Errorf("%v; want an error that names %s alone", err, c.Masters[1].Addr())
	}
}

func TestReason_NamesEachCauseOnce(t *testing.T) {
	t.Parallel()
	err := errors.Join(errors.New("b"), context.DeadlineExceeded, errors.New("a"), errors.New("b"))
	if got, want := reason(err), "a; b; no answer within 2s"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}
