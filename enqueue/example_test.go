package enqueue_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// exampleRedis starts a Redis in memory, in place of your own.
func exampleRedis() (rdb *redis.Client, stop func()) {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		panic(err)
	}
	rdb = redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	return rdb, func() { _ = rdb.Close(); server.Close() }
}

func Example() {
	rdb, stop := exampleRedis()
	defer stop()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for range 2 {
		res, err := client.Unbind(ctx, tasks.DeviceUnbind{UserID: "u-1", DeviceID: "1775406005920779393"})
		fmt.Println(res.Status, res.ID, err)
	}
	// Output:
	// enqueued device:unbind:u-1:1775406005920779393 <nil>
	// duplicate device:unbind:u-1:1775406005920779393 <nil>
}

func ExampleClient_Release() {
	rdb, stop := exampleRedis()
	defer stop()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		fmt.Println(err)
		return
	}
	lock := tasks.LockRelease{UserID: "u-1", LockID: "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"}
	res, err := client.Release(context.Background(), lock, enqueue.In(10*time.Minute), enqueue.Deadline(time.Now().Add(time.Hour)))
	fmt.Println(res.Status, res.Queue, err)
	// Output: enqueued release <nil>
}

func ExampleClient_Unbind_noGuard() {
	rdb, stop := exampleRedis()
	defer stop()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The account is deleted: the device must go even if it is bound again.
	res, err := client.Unbind(context.Background(), tasks.DeviceUnbind{UserID: "u-1", DeviceID: "42"}, enqueue.NoGuard())
	fmt.Println(res.Status, err)

	_, err = client.Unbind(context.Background(), tasks.DeviceUnbind{UserID: "u-1", DeviceID: "../lock"})
	fmt.Println(err)
	// Output:
	// enqueued <nil>
	// device_id is "../lock"; want 1 to 64 letters, digits, hyphens or underscores
}

func ExampleClient_Offboard() {
	rdb, stop := exampleRedis()
	defer stop()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The account is deleted: every device goes, and every lock that the ledger knows.
	res, err := client.Offboard(context.Background(), tasks.UserOffboard{UserID: "u-1"}, enqueue.Urgent())
	fmt.Println(res.Status, res.ID, err)
	// Output: enqueued user:offboard:u-1: <nil>
}

func ExampleClient_Bulk() {
	rdb, stop := exampleRedis()
	defer stop()
	client, err := enqueue.New(enqueue.Config{Redis: rdb})
	if err != nil {
		fmt.Println(err)
		return
	}
	file := strings.NewReader("user_id,device_id\nu-1,42\nu-2,not/valid\nu-3,43\nu-1,42\n")
	res, err := client.Bulk(context.Background(), records.TasksCSV(tasks.KindDeviceUnbind, file), enqueue.BulkOptions{
		OnItem: func(item enqueue.Item) {
			if item.Err != nil {
				fmt.Println(item.Err)
			}
		},
	})
	fmt.Printf("%d enqueued, %d duplicate, %d rejected, %v\n", res.Enqueued, res.Duplicate, res.Rejected, err)
	// Output:
	// line 3: device_id is "not/valid"; want 1 to 64 letters, digits, hyphens or underscores
	// 2 enqueued, 1 duplicate, 1 rejected, <nil>
}
