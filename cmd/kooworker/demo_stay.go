package main

import (
	"context"
	"net/http"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
)

// stay keeps the demo up until Ctrl-C, with asynqmon on loopback.
func (d *demo) stay(ctx context.Context, a *app) error {
	dashboard := asynqmon.New(asynqmon.Options{RedisConnOpt: asynq.RedisClientOpt{Addr: d.redis.addr}})
	defer func() { _ = dashboard.Close() }()
	served, err := serveHTTP(ctx, "127.0.0.1:0", http.Handler(dashboard))
	if err != nil {
		return err
	}
	say(a.stdout, `
Dashboard  http://%s
KooDrive   %s
Redis      redis://%s/0

Try, in another terminal:
  kooworker dead stats --redis-url redis://%s/0
  kooworker dead list --limit 5 --redis-url redis://%s/0
  kooworker dead replay --all --redis-url redis://%s/0
  kooworker enqueue unbind --user-id u --device-id d --redis-url redis://%s/0

Ctrl-C ends it.
`, served.addr, d.url, d.redis.addr, d.redis.addr, d.redis.addr, d.redis.addr, d.redis.addr)
	return served.wait()
}
