package batch_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
)

// exampleRedis stands for your Redis.
func exampleRedis() (rdb *redis.Client, stop func()) {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		panic(err)
	}
	rdb = redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	return rdb, func() { _ = rdb.Close(); server.Close() }
}

// fill does in short what enqueue.Client.Bulk and a worker do.
func fill(ctx context.Context, store *batch.Store, id string) error {
	unbind := tasks.DeviceUnbind{UserID: "u-1", DeviceID: "42"}
	var rolling batch.RollingDigest
	rolling.AddTask(unbind)
	_, claimed := store.ClaimChunk(ctx, id, 0, []batch.Digest{rolling.Digest()})
	marked := store.Mark(ctx, id, []batch.Mark{{Index: 0, State: batch.Queued}}, nil)
	closed := store.CloseInput(ctx, id, 1)
	_, _, recorded := store.RecordOutcomes(ctx, []tasks.Receipt{{
		BatchRef: tasks.BatchRef{Batch: id, Index: 0}, Kind: unbind.Kind(), UserID: unbind.UserID, Target: unbind.DeviceID,
		Outcome: tasks.Succeeded, Reason: tasks.OK, Attempts: 1,
	}})
	return errors.Join(claimed, marked, closed, recorded)
}

func Example() {
	rdb, stop := exampleRedis()
	defer stop()
	ctx := context.Background()
	store := batch.NewStore(rdb)
	id, _, err := store.Open(ctx, batch.Spec{ID: "deletions-2026-11-22"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := fill(ctx, store, id); err != nil {
		fmt.Println(err)
		return
	}
	stats, err := store.Wait(ctx, id, nil)
	fmt.Println(stats.Total, stats.Succeeded, stats.Done, err)
	for receipt, err := range store.Receipts(ctx, id, batch.ReceiptOptions{}) {
		fmt.Println(receipt.UserID, receipt.Target, receipt.Outcome, receipt.Attempts, err)
	}
	audit, err := store.Audit(ctx, id)
	fmt.Println("clean:", audit.Clean(), err)
	// Output:
	// 1 1 true <nil>
	// u-1 42 succeeded 1 <nil>
	// clean: true <nil>
}
