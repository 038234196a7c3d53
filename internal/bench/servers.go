package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

// redisServer is a redis-server process.
type redisServer struct {
	addr    string
	version string
	process *process
	client  *redis.Client
}

// startRedis starts the redis-server that is on PATH. The args are the first ones of
// its command line, such as the path of its configuration. Without any it persists
// nothing.
func startRedis(ctx context.Context, dir string, args ...string) (*redisServer, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("bench needs redis-server, and none is on PATH; `make bench` installs it, or: apt-get install redis-server")
	}
	if dir, err = os.MkdirTemp(dir, "redis-"); err != nil {
		return nil, err
	}
	if len(args) == 0 {
		args = []string{"--save", "", "--appendonly", "no"}
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	args = append(args, "--port", port, "--bind", "127.0.0.1", "--dir", dir)
	r := &redisServer{addr: addr}
	cmd := exec.Command(bin, args...) //nolint:gosec,noctx // G204: from PATH; ended by stop
	if r.process, err = startProcess(cmd, filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	r.client = newClient(addr)
	if err := r.awaitStart(ctx); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *redisServer) awaitStart(ctx context.Context) error {
	const limit, interval = 10 * time.Second, 5 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A client would log each connection that is refused.
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addr)
		if err == nil {
			_ = conn.Close()
			break
		}
		select {
		case <-r.process.exited:
			return r.process.failure()
		case <-ctx.Done():
			return fmt.Errorf("redis-server does not start: %w", err)
		case <-time.After(interval):
		}
	}
	info, err := r.client.InfoMap(ctx, "server").Result()
	r.version = info["Server"]["redis_version"]
	return err
}

func (r *redisServer) stop() {
	_ = r.client.Close()
	r.process.kill()
}

func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true, PoolSize: 64})
}

func freeAddr(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}

// distance is a proxy that makes a server seem to be 2 ms away. It delays what is sent
// each way by 1 ms, and lets any amount be on its way meanwhile.
type distance struct{ proxy *toxiproxy.Proxy }

func startDistance(upstream string) (*distance, error) {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	d := &distance{toxiproxy.NewProxy(server, "redis", "127.0.0.1:0", upstream)}
	if err := d.proxy.Start(); err != nil {
		return nil, fmt.Errorf("start the proxy: %w", err)
	}
	for _, direction := range []string{"upstream", "downstream"} {
		toxic := `{"name":"` + direction + `","type":"latency","stream":"` + direction + `","attributes":{"latency":1}}`
		if _, err := d.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			d.stop()
			return nil, fmt.Errorf("delay the proxy: %w", err)
		}
	}
	return d, nil
}

func (d *distance) addr() string { return d.proxy.Listen }

func (d *distance) stop() { d.proxy.Stop() }
