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
	addr, stop, err := serve(ctx, dashboard)
	if err != nil {
		return err
	}
	defer stop()
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
`, addr, d.url, d.redis.addr)
	<-ctx.Done()
	return nil
}

// serve serves HTTP on a free port of loopback until stop is called.
func serve(ctx context.Context, handler http.Handler) (addr string, stop func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with an error when stop closes the server
	}()
	return listener.Addr().String(), func() {
		_ = server.Close()
		<-done
	}, nil
}
