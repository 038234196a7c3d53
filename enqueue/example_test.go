package enqueue_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
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

func ExampleReadCSV() {
	file := strings.NewReader("user_id,device_id\nu-1,42\nu-2,not/valid\n")
	for task, err := range enqueue.ReadCSV(tasks.KindDeviceUnbind, file) {
		fmt.Println(task, err)
	}
	// Output:
	// {u-1 42} <nil>
	// <nil> line 3: device_id is "not/valid"; want 1 to 64 letters, digits, hyphens or underscores
}

func ExampleReadLocksCSV() {
	file := strings.NewReader("user_id,lock_id,expires_at\nu-1,l-1@102,2026-01-31T09:30:00+01:00\nu-2,l-2,\nu-3,l-3,tomorrow\n")
	for lock, err := range enqueue.ReadLocksCSV(file) {
		switch {
		case err != nil:
			fmt.Println(err)
		case lock.ExpiresAt.IsZero():
			fmt.Println(lock.LockID, "expires at a time that the file does not say")
		default:
			fmt.Println(lock.LockID, "expires at", lock.ExpiresAt)
		}
	}
	// Output:
	// l-1@102 expires at 2026-01-31 08:30:00 +0000 UTC
	// l-2 expires at a time that the file does not say
	// line 4: expires_at is "tomorrow"; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z
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
	res, err := client.Bulk(context.Background(), enqueue.ReadCSV(tasks.KindDeviceUnbind, file), enqueue.BulkOptions{
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
