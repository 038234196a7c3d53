package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/redistest"
)

func TestMain(m *testing.M) {
	// go-redis continues to dial for a second after its client was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func TestStart_EachServerIsItsOwn(t *testing.T) {
	t.Parallel()
	a, b := redistest.Start(t), redistest.Start(t)
	if err := a.Client().Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n := b.Client().DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("the second server holds %d keys", n)
	}
}

func TestRestart_KeepsPersistedKeys(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	c := s.Client()
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	if got, err := c.Get(t.Context(), "k").Result(); got != "v" {
		t.Errorf("after the restart: %q, %v", got, err)
	}
}

func TestFreeze_HangsUntilThaw(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	c := s.Client()
	if err := c.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Ping(ctx).Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen server: %v; want the deadline", err)
	}
	s.Thaw()
	if err := c.Ping(t.Context()).Err(); err != nil {
		t.Errorf("after the thaw: %v", err)
	}
}

func TestStartCluster_FailsOver(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, true, "--cluster-node-timeout", "1000")
	rdb := c.Client()
	for i := range 100 {
		if err := rdb.Set(t.Context(), fmt.Sprint("k", i), "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range c.Masters {
		n := s.Client().DBSize(t.Context()).Val()
		if n < 10 {
			t.Errorf("master %d holds %d keys; want at least 10", i, n)
		}
		redistest.Eventually(t, 5*time.Second, "the replica holds as many keys", func() bool {
			return c.Replicas[i].Client().DBSize(t.Context()).Val() == n
		})
	}
	if c.MasterOf("k7").Client().Exists(t.Context(), "k7").Val() != 1 {
		t.Error("MasterOf names a master without the key")
	}
	c.MasterOf("k7").Kill()
	redistest.Eventually(t, 30*time.Second, "a replica answers for its master", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return rdb.Get(ctx, "k7").Val() == "v"
	})
}
