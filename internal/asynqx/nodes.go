package asynqx

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrNodeSilent is the error of a call to a node of a Redis Cluster that does not answer.
// It arrives at once; see GuardNodes. [IsUnavailable] knows it.
var ErrNodeSilent = errors.New("this node of the Redis Cluster does not answer")

// GuardNodes makes calls to a node of a Redis Cluster fail at once while the node does not
// answer, so that nobody who also has to talk to other nodes waits for that one again and
// again: asynq extends its leases and forwards its tasks queue by queue, and a pipeline ends
// when its slowest node has answered. No call takes much longer than it takes to find out.
// While a node is silent it is pinged about once a second, if anybody wants it. With its
// first answer it is used again.
//
// It must be called before the client is used. A client of a single Redis stays as it is:
// who waits for that has nothing else to do.
func GuardNodes(rdb redis.UniversalClient) {
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(&nodeGuard{node: node}) })
	}
}

const (
	// silentAfter is how long a node may leave calls unanswered. It is more than the
	// slowest of our scripts takes.
	silentAfter = 2 * time.Second
	// callTimeout bounds a call. It is a little more, so that the node is known to be silent
	// when the call ends, and go-redis does not try again.
	callTimeout = silentAfter + 100*time.Millisecond
	// pingEvery is the time between two pings of a silent node.
	pingEvery = time.Second
	// pingTimeout bounds a ping.
	pingTimeout = 2 * time.Second
)

// nodeGuard watches the calls to one node.
type nodeGuard struct {
	node *redis.Client

	mu       sync.Mutex
	flying   int       // calls that are under way
	since    time.Time // while there are some: the latest answer, or the first of them
	isSilent bool
	pinged   time.Time
}

var _ redis.Hook = (*nodeGuard)(nil)

// DialHook implements redis.Hook; it changes nothing.
func (g *nodeGuard) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (g *nodeGuard) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return g.call(ctx, []redis.Cmder{cmd}, func(ctx context.Context) error { return next(ctx, cmd) })
	}
}

// ProcessPipelineHook implements redis.Hook.
func (g *nodeGuard) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return g.call(ctx, cmds, func(ctx context.Context) error { return next(ctx, cmds) })
	}
}

// call makes a call. What go-redis sends when it has connected, which comes by here as well,
// is not guarded: a ping may need a new connection. Nor is a command that waits in Redis.
func (g *nodeGuard) call(ctx context.Context, cmds []redis.Cmder, do func(context.Context) error) error {
	if !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return !unguarded[cmd.Name()] }) {
		return do(ctx)
	}
	if !g.begin(time.Now()) {
		return ErrNodeSilent
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := do(ctx)
	g.end(time.Now(), err)
	return err
}

// unguarded are the commands that belong to a connection, the ping, and those that wait.
var unguarded = map[string]bool{"hello": true, "auth": true, "select": true, "client": true, "readonly": true, "ping": true, "blmove": true}

// begin reports whether a call may be made.
func (g *nodeGuard) begin(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flying > 0 && now.Sub(g.since) > silentAfter {
		g.isSilent = true
	}
	if g.isSilent {
		if now.Sub(g.pinged) > pingEvery {
			g.pinged = now
			go g.probe()
		}
		return false
	}
	if g.flying == 0 {
		g.since = now
	}
	g.flying++
	return true
}

// end takes note of what became of a call.
func (g *nodeGuard) end(now time.Time, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying--
	switch {
	case isAnswer(err):
		g.isSilent, g.since = false, now
	case isRefused(err), isTimeout(err) && now.Sub(g.since) >= silentAfter:
		g.isSilent = true
	}
}

// probe pings the node. It ends soon if the client is closed.
func (g *nodeGuard) probe() {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	if isAnswer(g.node.Ping(ctx).Err()) {
		g.mu.Lock()
		g.isSilent, g.since = false, time.Now()
		g.mu.Unlock()
	}
}

// isAnswer reports whether Redis has answered, be it with an error.
func isAnswer(err error) bool {
	_, isReply := errors.AsType[redis.Error](err)
	return err == nil || isReply
}

// isRefused reports whether no connection could be made.
func isRefused(err error) bool {
	network, ok := errors.AsType[*net.OpError](err)
	return ok && network.Op == "dial"
}

func isTimeout(err error) bool {
	network, ok := errors.AsType[net.Error](err)
	return ok && network.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, redis.ErrPoolTimeout)
}

// MasterOf names the master of a cluster that has a key. It returns "" for a single Redis,
// and if that is not known. It asks nobody, except when the client is new.
func MasterOf(ctx context.Context, rdb redis.UniversalClient, key string) string {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		return ""
	}
	node, err := cluster.MasterForKey(ctx, key)
	if err != nil {
		return ""
	}
	return node.Options().Addr
}

// EachMaster divides some items by the master that has the key of each, and calls do with
// those of each master, at the same time. It returns when all are done. A single Redis has
// all of them, and do is called without a goroutine.
//
// A pipeline over several masters would not do: go-redis waits for the slowest of them, and
// may then give an error to those commands as well to which another one has answered.
func EachMaster[T any](ctx context.Context, rdb redis.UniversalClient, items []T, key func(T) string, do func(items []T)) {
	byMaster := make(map[string][]T, 1)
	for _, item := range items {
		master := MasterOf(ctx, rdb, key(item))
		byMaster[master] = append(byMaster[master], item)
	}
	if len(byMaster) == 1 {
		do(items)
		return
	}
	var wg sync.WaitGroup
	for _, items := range byMaster {
		wg.Go(func() { do(items) })
	}
	wg.Wait()
}

// SendOnce adds a script to a pipeline. go-redis does not send it to a cluster a second time,
// as it does with all commands of a pipeline if the first of them is refused for a while,
// for example because its slot is moving to another node. What the others have done would be
// done twice.
func SendOnce(ctx context.Context, p redis.Pipeliner, isCluster bool, cmd redis.Cmder) {
	if isCluster {
		cmd = once{cmd}
	}
	_ = p.Process(ctx, cmd) // it only collects
}

type once struct{ redis.Cmder }

// NoRetry implements redis.Cmder.
func (once) NoRetry() bool { return true }
