package main

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/tasks"
)

type enqueueCmd struct {
	Unbind   enqueueUnbindCmd   `cmd:"" help:"Unbind a device from its user, or many devices from a file."`
	Release  enqueueReleaseCmd  `cmd:"" help:"Release a backup lock, or many locks from a file."`
	Offboard enqueueOffboardCmd `cmd:"" help:"Unbind all devices of a user, and release the user's locks that the ledger knows; or do so for many users from a file."`
}

// enqueueFlags are common to all kinds of tasks.
type enqueueFlags struct {
	UserID         string        `name:"user-id" placeholder:"ID" help:"KooDrive user the target belongs to."`
	In             time.Duration `placeholder:"DURATION" help:"Do not run before this time has passed, for example 10m or 30d."`
	At             time.Time     `placeholder:"TIME" help:"Do not run before this time, for example 2026-12-01T00:00:00Z; at once if it has passed."`
	NotAfter       time.Time     `name:"not-after" placeholder:"TIME" help:"Do not run after this time: the task is then dead, with the reason expired."`
	File           fileFlags     `embed:""`
	Follow         bool          `help:"With --file -: keep standard input open, and answer each JSON line in one JSON line as soon as its task is stored. For programs that keep a pipe."`
	Batch          batchFlags    `embed:""`
	Urgent         bool          `help:"Go first: wait only for other urgent tasks. A batch that exists keeps its place."`
	NoGuard        bool          `name:"no-guard" help:"Unbind a device even if the user has bound it again since. For account deletions."`
	AllowAnyID     bool          `name:"allow-any-id" help:"Accept ids that look like a spreadsheet's number (1.5E+18) or like no value (NULL, -)."`
	JSON           bool          `help:"Print JSON."`
	MinReplicas    int           `name:"min-replicas" placeholder:"N" help:"Count a task as enqueued only when so many replicas have it too."`
	ReplicaTimeout time.Duration `name:"replica-timeout" default:"1s" help:"Wait this long for the replicas (${default})."`

	Timeout time.Duration `env:"KOOWORKER_ENQUEUE_TIMEOUT" default:"10s" help:"Give up on Redis after this time, for each task, or chunk of a file (${default})."`
}

type enqueueUnbindCmd struct {
	enqueueFlags
	DeviceID string `name:"device-id" placeholder:"ID" help:"Device to unbind."`
}

type enqueueReleaseCmd struct {
	enqueueFlags
	LockID string `name:"lock-id" placeholder:"ID" help:"Lock to release."`
}

type enqueueOffboardCmd struct{ enqueueFlags }

// Run implements the command.
func (c *enqueueUnbindCmd) Run(e *env) error {
	return c.run(e, tasks.DeviceUnbind{UserID: c.UserID, DeviceID: c.DeviceID}, targetFlag{"--user-id", c.UserID}, targetFlag{"--device-id", c.DeviceID})
}

// Run implements the command.
func (c *enqueueReleaseCmd) Run(e *env) error {
	if c.NoGuard {
		return usagef("--no-guard: releases are not guarded; the flag is for unbinds")
	}
	return c.run(e, tasks.LockRelease{UserID: c.UserID, LockID: c.LockID}, targetFlag{"--user-id", c.UserID}, targetFlag{"--lock-id", c.LockID})
}

// Run implements the command. --no-guard changes nothing here, because the unbinds of
// an off-boarding are never guarded.
func (c *enqueueOffboardCmd) Run(e *env) error {
	return c.run(e, tasks.UserOffboard{UserID: c.UserID}, targetFlag{"--user-id", c.UserID})
}

// run enqueues t, which the flags of target make, or the tasks of the file.
func (c *enqueueFlags) run(e *env, t tasks.Task, target ...targetFlag) error {
	if err := c.Batch.check(); err != nil {
		return err
	}
	if err := c.File.check(target...); err != nil {
		return err
	}
	if err := c.checkFollow(); err != nil {
		return err
	}
	if err := tasks.CheckPlausible(t); err != nil && !c.AllowAnyID {
		return usagef("%w; or --allow-any-id", err)
	}
	switch {
	case c.Follow:
		return c.runFollow(e, t.Kind())
	case c.File.File != "":
		return c.runFile(e, t.Kind())
	case c.Batch.wanted():
		if err := t.Validate(); err != nil {
			return usageError(err)
		}
		return c.runBulk(e, single(t), nil, nil)
	default:
		return c.runSingle(e, t)
	}
}

// runSingle enqueues one task that is in no batch.
func (c *enqueueFlags) runSingle(e *env, t tasks.Task) error {
	_, client, err := c.client(e, 2)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(e.ctx, c.Timeout)
	defer cancel()
	res, err := client.Enqueue(ctx, t, c.options()...)
	if isUsage(err) {
		return usageError(err)
	}
	if err != nil {
		return redisError(err)
	}
	isLater := runsLater(res.RunAt)
	if c.JSON {
		out := map[string]any{
			"id": res.ID, "kind": t.Kind(), "queue": res.Queue, "user_id": t.User(), "target": t.Target(), "status": res.Status,
		}
		if isLater {
			out["run_at"] = jsonTime(res.RunAt)
		}
		return writeJSON(e.stdout, out)
	}
	when := ""
	if isLater {
		when = "; it runs from " + res.RunAt.UTC().Format(time.RFC3339) + " on"
	}
	if res.Status == enqueue.Duplicate {
		fmt.Fprintf(e.stdout, "duplicate: %s is outstanding already%s\n", res.ID, when)
		return nil
	}
	fmt.Fprintf(e.stdout, "enqueued %s%s\n", res.ID, when)
	return nil
}

// runsLater reports whether a task that runs from t on waits for its time.
func runsLater(t time.Time) bool { return time.Until(t) > time.Second }

// jsonTime returns a time for JSON in whole seconds of UTC, and nil for the zero time.
func jsonTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// single is an input of one task.
func single(t tasks.Task) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) { yield(t, nil) }
}

func (c *enqueueFlags) options() []enqueue.Option {
	opts := []enqueue.Option{enqueue.In(c.In), enqueue.At(c.At), enqueue.Deadline(c.NotAfter)}
	if c.Urgent {
		opts = append(opts, enqueue.Urgent())
	}
	if c.NoGuard {
		opts = append(opts, enqueue.NoGuard())
	}
	if c.AllowAnyID {
		opts = append(opts, enqueue.AllowAnyID())
	}
	return opts
}

// client checks the common flags and returns a client, and the Redis that it uses.
func (c *enqueueFlags) client(e *env, poolSize int) (redis.UniversalClient, *enqueue.Client, error) {
	if c.In < 0 {
		return nil, nil, usagef("--in: %s is negative; want a time such as 10m", c.In)
	}
	if c.In > 0 && !c.At.IsZero() {
		return nil, nil, usagef("--in and --at: want one of them")
	}
	if c.Timeout <= 0 {
		return nil, nil, usagef("--timeout: %s; want more than 0, such as 10s", c.Timeout)
	}
	rdb, err := e.redis(poolSize)
	if err != nil {
		return nil, nil, err
	}
	client, err := e.producer(enqueue.Config{Redis: rdb, MinReplicas: c.MinReplicas, ReplicaTimeout: c.ReplicaTimeout})
	if err != nil {
		return nil, nil, usageError(err)
	}
	return rdb, client, nil
}
