package demo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
)

// stay serves asynqmon on loopback, says what to try, and waits until ctx ends.
func (d *demo) stay(ctx context.Context) error {
	dashboard := asynqmon.New(asynqmon.Options{RedisConnOpt: asynq.RedisClientOpt{Addr: d.redis.addr}})
	defer func() { _ = dashboard.Close() }()
	server, err := serve(ctx, dashboard)
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	fmt.Fprintf(d.out, `
Dashboard  http://%s
KooDrive   %s
Redis      redis://%[3]s/0

Try, in another terminal:
  kooworker dead stats --redis-url redis://%[3]s/0
  kooworker dead list --limit 5 --redis-url redis://%[3]s/0
  kooworker dead replay --all --redis-url redis://%[3]s/0
  kooworker enqueue unbind --user-id u --device-id d --redis-url redis://%[3]s/0

Press Ctrl-C to end it.
`, server.Addr, d.url, d.redis.addr)
	<-ctx.Done()
	return nil
}

// serve serves HTTP on a free port of loopback until the server is closed. The
// server's Addr is the address.
func serve(ctx context.Context, handler http.Handler) (*http.Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with an error when the server is closed
	return server, nil
}
