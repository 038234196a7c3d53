package demo

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// redisServer is a Redis that lives as long as the demo: a redis-server from PATH
// in a temporary folder, or else miniredis in this process.
type redisServer struct {
	addr string
	kind string // as people are told
	stop func()
}

func startRedis(ctx context.Context) (*redisServer, error) {
	if bin, err := exec.LookPath("redis-server"); err == nil {
		if r, err := startProcess(ctx, bin); err == nil {
			return r, nil
		}
	}
	return startMiniredis()
}

func startProcess(ctx context.Context, bin string) (*redisServer, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := listener.Addr().String()
	_ = listener.Close() // leaves a free port to redis-server
	dir, err := os.MkdirTemp("", "kooworker-demo-")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "--port", addr[strings.LastIndexByte(addr, ':')+1:], "--bind", "127.0.0.1", "--dir", dir, //nolint:gosec,noctx // from PATH; ended by stop, after the worker
		"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	starting, stopWaiting := context.WithTimeout(ctx, 5*time.Second)
	defer stopWaiting()
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
		stopWaiting()
	}()
	r := &redisServer{
		addr: addr,
		kind: "redis-server, in a temporary folder",
		stop: func() {
			_ = cmd.Process.Kill()
			<-exited
			_ = os.RemoveAll(dir)
		},
	}
	const interval = 5 * time.Millisecond
	rdb := redis.NewClient(&redis.Options{
		Addr: addr, ContextTimeoutEnabled: true, MaxRetries: math.MaxInt, MinRetryBackoff: interval, MaxRetryBackoff: interval, DialerRetries: 1,
	})
	defer func() { _ = rdb.Close() }()
	if err := rdb.Ping(starting).Err(); err != nil { // after many tries: the server is slow, or has exited
		r.stop()
		return nil, err
	}
	return r, nil
}

// startMiniredis also moves the clock of miniredis, which does not move by itself:
// leases and heartbeats must expire.
func startMiniredis() (*redisServer, error) {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start a Redis: %w", err)
	}
	const step = 200 * time.Millisecond
	quit := make(chan struct{})
	go func() {
		tick := time.NewTicker(step)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				server.FastForward(step)
			}
		}
	}()
	return &redisServer{
		addr: server.Addr(),
		kind: "miniredis, in this process (no redis-server on PATH)",
		stop: func() {
			close(quit)
			server.Close()
		},
	}, nil
}
