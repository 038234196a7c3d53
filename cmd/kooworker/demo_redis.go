package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// embeddedRedis is a Redis for the time of the demo: a redis-server from PATH
// in a temporary folder, or else one written in Go, in this process.
type embeddedRedis struct {
	addr string
	what string
	stop func()
}

func startEmbeddedRedis(ctx context.Context) (*embeddedRedis, error) {
	if bin, err := exec.LookPath("redis-server"); err == nil {
		if r, err := startRedisServer(ctx, bin); err == nil {
			return r, nil
		}
	}
	return startMiniredis()
}

func startRedisServer(ctx context.Context, bin string) (*embeddedRedis, error) {
	dir, err := os.MkdirTemp("", "kooworker-demo-")
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, //nolint:gosec,noctx // from PATH; stopped by stop, after the worker
		"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	r := &embeddedRedis{
		addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		what: "redis-server, in a temporary folder",
		stop: func() {
			_ = cmd.Process.Kill()
			<-exited
			_ = os.RemoveAll(dir)
		},
	}
	if err := awaitPong(ctx, r.addr, exited); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func awaitPong(ctx context.Context, addr string, exited <-chan struct{}) error {
	rdb := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1})
	defer func() { _ = rdb.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for rdb.Ping(ctx).Err() != nil {
		select {
		case <-exited:
			return errors.New("redis-server exited")
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// startMiniredis keeps time for a server that does not do so by itself: leases
// and heartbeats must expire.
func startMiniredis() (*embeddedRedis, error) {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start a Redis: %w", err)
	}
	const step = 200 * time.Millisecond
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
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
	return &embeddedRedis{
		addr: server.Addr(),
		what: "miniredis, in this process (no redis-server on PATH)",
		stop: func() {
			close(quit)
			<-stopped
			server.Close()
		},
	}, nil
}

func freePort(ctx context.Context) (int, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}
