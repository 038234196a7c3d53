package asynqx

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// keyOn returns a key that a master has.
func keyOn(t *testing.T, c *redistest.Cluster, master *redistest.Server) string {
	t.Helper()
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if c.MasterOf(key) == master {
			return key
		}
	}
	t.Fatal("none of the keys is there; want one")
	return ""
}

func TestGuardNodes_SilentNode(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false, "--cluster-node-timeout", "60000")
	rdb := c.Client()
	GuardNodes(rdb)
	bad, good := keyOn(t, c, c.Masters[0]), keyOn(t, c, c.Masters[1])
	get := func(key string) (time.Duration, error) {
		began := time.Now()
		_, err := rdb.Exists(t.Context(), key).Result()
		return time.Since(began), err
	}
	for _, key := range []string{bad, good} {
		if _, err := get(key); err != nil {
			t.Fatal(err)
		}
	}
	c.Masters[0].Freeze()
	if took, err := get(bad); err == nil || took > 10*time.Second {
		t.Errorf("the first call to a node that hangs: %v after %s; want an error when it has timed out", err, took)
	}
	for range 3 {
		if took, err := get(bad); !errors.Is(err, ErrNodeSilent) || !IsUnavailable(err) || took > 2500*time.Millisecond {
			t.Errorf("further calls: %v after %s; want ErrNodeSilent at once", err, took)
		}
	}
	if _, err := get(good); err != nil {
		t.Errorf("another node: %v", err)
	}
	replies := make([]*redis.IntCmd, 2)
	began := time.Now()
	_, _ = rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		replies[0], replies[1] = p.Exists(t.Context(), bad), p.Exists(t.Context(), good)
		return nil
	})
	if !errors.Is(replies[0].Err(), ErrNodeSilent) || replies[1].Err() != nil || time.Since(began) > 2500*time.Millisecond {
		t.Errorf("a pipeline: %v and %v after %s; want ErrNodeSilent and no error at once", replies[0].Err(), replies[1].Err(), time.Since(began))
	}
	c.Masters[0].Thaw()
	redistest.Eventually(t, 10*time.Second, "the node is used again", func() bool { _, err := get(bad); return err == nil })
}

// A call that ends early because its caller has no time tells nothing about the node.
func TestGuardNodes_HastyCallers(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 2, false, "--cluster-node-timeout", "60000")
	rdb := c.Client()
	GuardNodes(rdb)
	key := keyOn(t, c, c.Masters[0])
	if err := rdb.Exists(t.Context(), key).Err(); err != nil {
		t.Fatal(err)
	}
	c.Masters[0].Freeze()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := rdb.Exists(ctx, key).Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want the caller's deadline", err)
		}
		cancel()
	}
	c.Masters[0].Thaw()
	if err := rdb.Exists(t.Context(), key).Err(); err != nil {
		t.Errorf("%v; want no error", err)
	}
}

// A master that hangs delays no script for another one, and no round of the forwarder.
func TestHooks_OneMasterHangs(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 2, false, "--cluster-node-timeout", "60000")
	rdb := c.Client()
	rdb.AddHook(CoalesceHook(rdb))
	bad, good := keyOn(t, c, c.Masters[0]), keyOn(t, c, c.Masters[1])
	script := redis.NewScript(`return 1`)
	run := func(key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return script.Run(ctx, rdb, []string{key}).Err()
	}
	for _, key := range []string{bad, good} {
		if err := run(key); err != nil {
			t.Fatal(err)
		}
		if err := rdb.ZAdd(t.Context(), ScheduledKey(key), redis.Z{Score: 1, Member: "x"}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var asked []string
	forward := ForwardHook(rdb, []string{bad, good}).ProcessHook(func(_ context.Context, cmd redis.Cmder) error {
		asked = append(asked, firstKey(cmd))
		return nil
	})
	c.Masters[0].Freeze()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Masters[0].Thaw()
	for range 2 * mostFlying {
		wg.Go(func() { _ = run(bad) })
	}
	began := time.Now()
	for range 10 {
		if err := run(good); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(began); took > 2500*time.Millisecond {
		t.Errorf("ten scripts for the other master took %s; want milliseconds", took)
	}
	for _, queue := range []string{bad, good} {
		_ = forward(t.Context(), redis.NewCmd(t.Context(), "evalsha", "sha", 2, ScheduledKey(queue), PendingKey(queue), 1, 2, 3, 4))
	}
	if want := []string{ScheduledKey(good)}; !slices.Equal(asked, want) {
		t.Errorf("asked for what is due in %q; want %q", asked, want)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("all of it took %s; want about a second", took)
	}
}
