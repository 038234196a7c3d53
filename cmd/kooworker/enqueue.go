package main

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/tasks"
)

type enqueueCmd struct {
	Unbind   enqueueUnbindCmd   `cmd:"" help:"Unbind a device from its user, or many from a file."`
	Release  enqueueReleaseCmd  `cmd:"" help:"Release a backup lock, or many from a file."`
	Offboard enqueueOffboardCmd `cmd:"" help:"Unbind every device that a user has, and release the locks that the ledger knows; or of many users from a file."`
}

// enqueueFlags are common to all kinds of tasks.
type enqueueFlags struct {
	UserID         string        `name:"user-id" placeholder:"ID" help:"KooDrive user the target belongs to."`
	In             time.Duration `placeholder:"DURATION" help:"Do not run before this has passed, for example 10m."`
	File           fileFlags     `embed:""`
	Batch          batchFlags    `embed:""`
	NoGuard        bool          `name:"no-guard" help:"Unbind even what the user has bound again since: for account deletions."`
	JSON           bool          `help:"Print JSON."`
	MinReplicas    int           `name:"min-replicas" placeholder:"N" help:"Count a task as enqueued only when so many replicas have it too."`
	ReplicaTimeout time.Duration `name:"replica-timeout" default:"1s" help:"Wait so long for them (${default})."`

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

type enqueueOffboardCmd struct {
	enqueueFlags
}

// Run implements the command.
func (c *enqueueUnbindCmd) Run(a *app) error {
	return c.run(a, tasks.DeviceUnbind{UserID: c.UserID, DeviceID: c.DeviceID}, "--user-id and --device-id", c.UserID+c.DeviceID == "", c.UserID == "" || c.DeviceID == "")
}

// Run implements the command.
func (c *enqueueReleaseCmd) Run(a *app) error {
	if c.NoGuard {
		return usagef("--no-guard: releases are not guarded; it is for unbinds")
	}
	return c.run(a, tasks.LockRelease{UserID: c.UserID, LockID: c.LockID}, "--user-id and --lock-id", c.UserID+c.LockID == "", c.UserID == "" || c.LockID == "")
}

// Run implements the command. Its unbinds are never guarded: --no-guard says no
// more than what is so anyway.
func (c *enqueueOffboardCmd) Run(a *app) error {
	return c.run(a, tasks.UserOffboard{UserID: c.UserID}, "--user-id", c.UserID == "", c.UserID == "")
}

// run enqueues t, or what the file holds. ids names the flags that make up t,
// none says that not one of these is given, and missing that one is not.
func (c *enqueueFlags) run(a *app, t tasks.Task, ids string, none, missing bool) error {
	if err := c.Batch.check(); err != nil {
		return err
	}
	if c.File.File != "" {
		if !none {
			return usagef("--file: leave out %s, which the file holds", ids)
		}
		return c.file(a, t.Kind())
	}
	if err := c.File.refuse(); err != nil {
		return err
	}
	if missing {
		return usagef("want %s, or --file", ids)
	}
	if c.Batch.wanted() {
		if err := t.Validate(); err != nil {
			return usageError{err}
		}
		return c.many(a, one(t), nil, nil)
	}
	client, done, err := c.client(a, 2)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(a.ctx, c.Timeout)
	defer cancel()
	res, err := client.Enqueue(ctx, t, c.options()...)
	if _, malformed := errors.AsType[*tasks.FieldError](err); malformed {
		return usageError{err}
	}
	if err != nil {
		return redisError{err}
	}
	if c.JSON {
		return writeJSON(a.stdout, map[string]any{
			"id": res.ID, "kind": t.Kind(), "queue": res.Queue, "user_id": t.User(), "target": t.Target(), "status": res.Status,
		})
	}
	if res.Status == enqueue.Duplicate {
		say(a.stdout, "duplicate: %s is outstanding already\n", res.ID)
		return nil
	}
	say(a.stdout, "enqueued %s\n", res.ID)
	return nil
}

// one is an input of a single task.
func one(t tasks.Task) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) { yield(t, nil) }
}

func (c *enqueueFlags) options() []enqueue.Option {
	var opts []enqueue.Option
	if c.In != 0 {
		opts = append(opts, enqueue.In(c.In))
	}
	if c.NoGuard {
		opts = append(opts, enqueue.NoGuard())
	}
	return opts
}

// client checks the common flags and connects.
func (c *enqueueFlags) client(a *app, poolSize int) (client *enqueue.Client, done func(), err error) {
	if c.In < 0 {
		return nil, nil, usagef("--in: %s is negative; want a time such as 10m", c.In)
	}
	if c.Timeout <= 0 {
		return nil, nil, usagef("--timeout: %s; want more than 0, such as 10s", c.Timeout)
	}
	a.flags.Log.quiet(a.stderr)
	rdb, err := a.flags.Redis.client(poolSize)
	if err != nil {
		return nil, nil, err
	}
	client, err = enqueue.New(enqueue.Config{Redis: rdb, MinReplicas: c.MinReplicas, ReplicaTimeout: c.ReplicaTimeout})
	if err != nil {
		_ = rdb.Close()
		return nil, nil, usageError{err}
	}
	return client, func() { _ = rdb.Close() }, nil
}

// redisHints are for what a Redis says that can be reached.
//
//nolint:gosec // G101: the words of Redis' errors
var redisHints = map[string]string{
	"OOM ":       "Redis is full: give it more memory (maxmemory), or let workers make room",
	"READONLY ":  "this Redis is a replica: name the primary, or the sentinels, in --redis-url",
	"LOADING ":   "Redis is still reading its data: try again in a moment",
	"NOAUTH ":    "Redis wants a password: give it in --redis-url",
	"WRONGPASS ": "Redis refuses the user or password of --redis-url",
	"MISCONF ":   "Redis cannot persist, and takes no more until it can: look at its log and its disk",
}

// redisError is an error of Redis with what to do about it.
type redisError struct{ err error }

func (e redisError) Error() string { return e.err.Error() }
func (e redisError) Unwrap() error { return e.err }

// Hint implements the hint of report.
func (e redisError) Hint() string {
	var inner interface{ Hint() string }
	if errors.As(e.err, &inner) {
		return inner.Hint()
	}
	for prefix, hint := range redisHints {
		if strings.Contains(e.err.Error(), prefix) {
			return hint
		}
	}
	return "check --redis-url, and that the server runs and can be reached from here (redis-cli PING)"
}
