package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cluster is a Redis Cluster on loopback.
type Cluster struct {
	tb testing.TB
	// Masters are the servers that were masters at the start, and Replicas the replica of
	// each of them, if there are any. A failover changes that.
	Masters, Replicas []*Server
}

const slots = 16384

// StartCluster starts a cluster with so many masters, and as many replicas if it shall
// have some. The slots are divided as redis-cli divides them. The args are appended to
// the command line of each server. Slots whose master is down do not stop the others.
func StartCluster(tb testing.TB, masters int, withReplicas bool, args ...string) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}
	args = append([]string{"--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"}, args...)
	n := masters
	if withReplicas {
		n *= 2
	}
	for range n {
		c.Masters = append(c.Masters, start(tb, true, args))
	}
	c.Masters, c.Replicas = c.Masters[:masters], c.Masters[masters:]
	for i, s := range c.all() {
		s.do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			first, last := slotsOf(i, masters)
			s.do("CLUSTER", "ADDSLOTSRANGE", first, last)
		}
		if i > 0 {
			c.Masters[0].do("CLUSTER", "MEET", "127.0.0.1", s.port, s.bus)
		}
	}
	c.await("every node knows every other", func(s *Server) bool {
		return strings.Count(s.ask("CLUSTER", "NODES"), "connected") == n && !strings.Contains(s.ask("CLUSTER", "NODES"), "handshake")
	})
	for i, s := range c.Replicas {
		s.do("CLUSTER", "REPLICATE", c.Masters[i].ask("CLUSTER", "MYID"))
	}
	c.await("every node says that all is well", func(s *Server) bool {
		return strings.Contains(s.ask("CLUSTER", "INFO"), "cluster_state:ok") && strings.Count(s.ask("CLUSTER", "NODES"), "slave") == len(c.Replicas)
	})
	for _, s := range c.Replicas {
		Eventually(tb, startTimeout, "a replica is in step", func() bool {
			return strings.Contains(s.ask("INFO", "replication"), "master_link_status:up")
		})
	}
	return c
}

func (c *Cluster) all() []*Server { return slices.Concat(c.Masters, c.Replicas) }

func (c *Cluster) await(what string, cond func(*Server) bool) {
	c.tb.Helper()
	Eventually(c.tb, startTimeout, what, func() bool {
		return !slices.ContainsFunc(c.all(), func(s *Server) bool { return !cond(s) })
	})
}

// Nodes returns host:port of each server.
func (c *Cluster) Nodes() (addrs []string) {
	for _, s := range c.all() {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

// Client returns a client that honours contexts, and notices soon if another node is the
// master of some slots. It is closed when the test ends.
func (c *Cluster) Client() *redis.ClusterClient {
	rdb := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: c.Nodes(), ContextTimeoutEnabled: true, DialerRetries: 1, PoolSize: 64, ClusterStateReloadInterval: time.Second,
	})
	c.tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// MasterOf returns which of Masters had the slot of a key at the start.
func (c *Cluster) MasterOf(key string) *Server {
	c.tb.Helper()
	slot, err := strconv.Atoi(c.Masters[0].ask("CLUSTER", "KEYSLOT", key))
	if err != nil {
		c.tb.Fatal(err)
	}
	for i, s := range c.Masters {
		if _, last := slotsOf(i, len(c.Masters)); slot <= last {
			return s
		}
	}
	return nil
}

// Migrate moves the slot of a key from one master to another, ten keys at a time with a
// pause after them, and returns how many it has moved.
func (c *Cluster) Migrate(key string, from, to *Server, pause time.Duration) (keys int) {
	c.tb.Helper()
	slot := from.ask("CLUSTER", "KEYSLOT", key)
	source, target := from.ask("CLUSTER", "MYID"), to.ask("CLUSTER", "MYID")
	to.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
	from.do("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
	rdb := from.Client()
	n, _ := strconv.Atoi(slot)
	for {
		names, err := rdb.ClusterGetKeysInSlot(c.tb.Context(), n, 10).Result()
		if err != nil {
			c.tb.Fatal(err)
		}
		if len(names) == 0 {
			break
		}
		args := []any{"MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS"}
		for _, name := range names {
			args = append(args, name)
		}
		from.do(args...)
		keys += len(names)
		<-time.After(pause)
	}
	for _, s := range []*Server{to, from} {
		s.do("CLUSTER", "SETSLOT", slot, "NODE", target)
	}
	return keys
}

// slotsOf returns the slots of one of some masters.
func slotsOf(i, masters int) (first, last int) {
	share := float64(slots) / float64(masters)
	end := func(i int) int { return int(float64(i)*share + 0.5) } //nolint:mnd // rounds
	return end(i), end(i+1) - 1
}

// do sends a command that must succeed.
func (s *Server) do(args ...any) {
	s.tb.Helper()
	c := redis.NewClient(s.Options())
	defer func() { _ = c.Close() }()
	if err := c.Do(s.tb.Context(), args...).Err(); err != nil {
		s.tb.Fatalf("%v: %v", args, err)
	}
}

// ask returns the answer to a command, and nothing if there is none.
func (s *Server) ask(args ...any) string {
	c := redis.NewClient(s.Options())
	defer func() { _ = c.Close() }()
	reply, err := c.Do(s.tb.Context(), args...).Result()
	if err != nil {
		return ""
	}
	return fmt.Sprint(reply)
}
