package enqueue_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

func TestEnqueue_MinReplicas(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, "--repl-diskless-sync-delay", "0")
	host, port, err := net.SplitHostPort(primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	redistest.Eventually(t, 30*time.Second, "the replica is in sync", func() bool {
		return strings.Contains(replica.Client().Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	client := func(n int) *enqueue.Client {
		c, err := enqueue.New(enqueue.Config{Redis: primary.Client(), MinReplicas: n, ReplicaTimeout: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	order := func(device string) tasks.DeviceUnbind { return tasks.DeviceUnbind{UserID: "u", DeviceID: device} }

	if res, err := client(1).Unbind(t.Context(), order("a")); err != nil || res.Status != enqueue.Enqueued {
		t.Errorf("with one of one replica: %+v, %v; want it enqueued", res, err)
	}
	if n := replica.Client().Exists(t.Context(), "asynq:{unbind}:t:"+tasks.Identity(order("a"))).Val(); n != 1 {
		t.Error("the task was reported as enqueued; want the replica to have it")
	}
	if res, err := client(1).Unbind(t.Context(), order("a")); err != nil || res.Status != enqueue.Duplicate {
		t.Errorf("again: %+v, %v; want a duplicate", res, err)
	}
	// With one replica more than exists.
	for _, status := range []enqueue.Status{enqueue.Enqueued, enqueue.Duplicate} {
		res, err := client(2).Unbind(t.Context(), order("b"))
		if short, ok := errors.AsType[*enqueue.NotReplicatedError](err); !ok || short.Want != 2 || short.Got != 1 || res.Status != status {
			t.Errorf("with two of one replica: %+v, %v; want %s and a NotReplicatedError", res, err, status)
		}
	}
	replica.Freeze()
	defer replica.Thaw()
	if _, err := client(1).Unbind(t.Context(), order("c")); err == nil {
		t.Error("reported as enqueued while the replica hangs; want an error")
	}
}

func TestNew_InvalidReplicaSettings(t *testing.T) {
	t.Parallel()
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, ContextTimeoutEnabled: true})
	defer func() { _ = cluster.Close() }()
	single := redis.NewClient(&redis.Options{ContextTimeoutEnabled: true})
	defer func() { _ = single.Close() }()
	for name, cfg := range map[string]enqueue.Config{
		"cluster":  {Redis: cluster, MinReplicas: 1},
		"negative": {Redis: single, MinReplicas: -1},
		"no time":  {Redis: single, MinReplicas: 1, ReplicaTimeout: -time.Second},
	} {
		if _, err := enqueue.New(cfg); err == nil {
			t.Errorf("%s: accepted; want an error", name)
		}
	}
}
