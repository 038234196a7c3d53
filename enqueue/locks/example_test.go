package locks_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/locks"
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

// What a backup service says of its locks.
func ExampleStore_Track() {
	rdb, stop := exampleRedis()
	defer stop()
	ctx, store := context.Background(), locks.NewStore(rdb)

	fmt.Println(store.Track(ctx, []locks.TrackRequest{{UserID: "u-1", LockID: "78e41c7e@102"}, {UserID: "u-2", LockID: "0b1d@100"}}))
	fmt.Println(store.Renew(ctx, []locks.TrackRequest{{UserID: "u-1", LockID: "78e41c7e@102", ExpiresIn: 20 * time.Minute}}))
	fmt.Println(store.Forget(ctx, []tasks.LockID{{UserID: "u-2", LockID: "0b1d@100"}}))
	// Output:
	// [tracked tracked] <nil>
	// [renewed] <nil>
	// [forgotten] <nil>
}

// What a sweep and a worker say of a lock whose holder went away.
func ExampleStore_Claim() {
	rdb, stop := exampleRedis()
	defer stop()
	ctx, store := context.Background(), locks.NewStore(rdb)
	if _, err := store.Track(ctx, []locks.TrackRequest{{UserID: "u-1", LockID: "78e41c7e@102", ExpiresAt: time.Now().Add(-time.Hour)}}); err != nil {
		fmt.Println(err)
		return
	}

	for lock, err := range store.Stale(ctx, 2*time.Minute) { // enqueue a release of each
		if err != nil {
			fmt.Println(err)
			return
		}
		id := lock.ID()
		fmt.Println("stale:", id.UserID, id.Module())
		if err := store.MarkSwept(ctx, []tasks.Lock{lock}); err != nil {
			fmt.Println(err)
			return
		}
		claim, err := store.Claim(ctx, id, lock.ExpiresAt, time.Minute) // then a worker
		fmt.Println(claim.Status, err)
		fmt.Println(store.Renew(ctx, []locks.TrackRequest{{UserID: "u-1", LockID: "78e41c7e@102"}}))
		fmt.Println(store.Released(ctx, claim))
	}
	counts, err := store.Counts(ctx, 0)
	fmt.Println(counts.Total, err)
	// Output:
	// stale: u-1 102
	// claimed <nil>
	// [releasing] <nil>
	// <nil>
	// 0 <nil>
}
