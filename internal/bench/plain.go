package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// runPlain is a worker as one writes it with asynq alone: one server, one queue, and a
// handler that decodes the task, calls, and reads the answer. It neither limits nor
// classifies, and keeps no receipts and no log of its tasks.
//
// It is tuned where it costs nothing: for each task in flight there is a connection to
// Redis, and one to the API that is kept alive.
func runPlain(ctx context.Context, args []string) error {
	const want = 3
	if len(args) != want {
		return fmt.Errorf("got the arguments %q; want Redis, API and concurrency", args)
	}
	concurrency, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	handler := plainHandler{api: args[1], transport: &http.Transport{
		MaxIdleConns: concurrency, MaxIdleConnsPerHost: concurrency, IdleConnTimeout: time.Minute, DisableCompression: true,
	}}
	const others = 10 // connections for fetching, heartbeats and the like
	server := asynq.NewServer(asynq.RedisClientOpt{Addr: args[0], PoolSize: concurrency + others}, asynq.Config{
		Concurrency: concurrency, Queues: map[string]int{tasks.QueueUnbind: 1}, LogLevel: asynq.WarnLevel,
	})
	if err := server.Start(handler); err != nil {
		return err
	}
	<-ctx.Done()
	server.Shutdown()
	return nil
}

type plainHandler struct {
	api       string
	transport *http.Transport
}

var _ asynq.Handler = plainHandler{}

// ProcessTask implements asynq.Handler.
func (h plainHandler) ProcessTask(ctx context.Context, t *asynq.Task) error {
	var order struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id"`
	}
	if err := json.Unmarshal(t.Payload(), &order); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, h.api+apiPath+order.DeviceID, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer+bench")
	req.Header.Set("X-User-Id", order.UserID)
	req.Header.Set("X-Date", time.Now().UTC().Format("20060102T150405Z"))
	resp, err := h.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var answer struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || answer.Code != 0 {
		return fmt.Errorf("HTTP %d, code %d: %s", resp.StatusCode, answer.Code, answer.Msg)
	}
	return nil
}

// seedPlain enqueues tasks 0 to n-1 where a plain worker looks, wherever kooworker
// itself puts them.
func seedPlain(ctx context.Context, rdb redis.UniversalClient, n int) error {
	const chunk = 500
	orders := make([]asynqx.Order, 0, chunk)
	for i := range n {
		t := task(i)
		payload, err := tasks.Encode(t, tasks.Intent{EnqueuedAt: time.Now()})
		if err != nil {
			return err
		}
		orders = append(orders, asynqx.Order{ID: tasks.Identity(t), Kind: t.Kind(), Queue: tasks.QueueUnbind, Payload: payload})
		if len(orders) == chunk || i == n-1 {
			if err := asynqx.EnqueueAll(ctx, rdb, orders); err != nil {
				return err
			}
			orders = orders[:0]
		}
	}
	return nil
}
