package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/history"
	"github.com/kooworker/kooworker/enqueue/waiting"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/userhistory"
)

type historyCmd struct {
	Show   historyShowCmd   `cmd:"" default:"withargs" help:"Show what became of all tasks of one user, oldest first. Batches with --no-receipts are not in it."`
	Forget historyForgetCmd `cmd:"" help:"Remove the receipts of one user, of batches and of single orders. It refuses while tasks of the user wait, run or are dead."`
}

type historyShowCmd struct {
	UserID   string `name:"user-id" required:"" placeholder:"ID" help:"KooDrive user."`
	DeviceID string `name:"device-id" xor:"target" placeholder:"ID" help:"Only what happened to this device."`
	LockID   string `name:"lock-id" xor:"target" placeholder:"ID" help:"Only what happened to this lock."`
	JSON     bool   `help:"Print JSON lines: receipts, each with its source."`
}

// Run implements the command.
func (c *historyShowCmd) Run(e *env, rdb redis.UniversalClient) error {
	events, err := userhistory.Read(e.ctx, rdb, c.UserID, userhistory.Filter{DeviceID: c.DeviceID, LockID: c.LockID})
	if err != nil {
		return redisError(err)
	}
	if c.JSON {
		yieldAll := func(yield func(tasks.Receipt, error) bool) {
			for _, r := range events {
				if !yield(r, nil) {
					return
				}
			}
		}
		return writeJSONLines(e.stdout, false, yieldAll, func(r tasks.Receipt) any { return r }, redisError)
	}
	table := terminal.NewTable(e.stdout, "WHEN", "SOURCE", "TASK", terminal.Optional("TARGET"), terminal.Optional("BATCH"), "OUTCOME")
	for _, r := range events {
		outcome := string(r.Outcome)
		switch {
		case strings.HasPrefix(string(r.Reason), outcome): // such as "cancelled: wrong file"
			outcome = string(r.Reason)
		case r.Reason != tasks.OK:
			outcome += ": " + string(r.Reason)
		}
		table.Row(r.At.Local().Format(time.DateTime), r.Source, r.Kind, terminal.ID(r.Target), terminal.ID(r.Batch), outcome)
	}
	return table.Close("Nothing is known of this user.\n")
}

type historyForgetCmd struct {
	UserID string `name:"user-id" required:"" placeholder:"ID" help:"KooDrive user."`
	JSON   bool   `help:"Print one JSON object."`
}

// Run implements the command.
//
// A task that somebody enqueues after the look at the queues gets its receipt after all.
// If the process dies half-way, running it again removes the rest.
func (c *historyForgetCmd) Run(e *env, rdb redis.UniversalClient, batches *batch.Store, singles *history.Store, letters *deadletter.Store) error {
	if err := c.checkOutstanding(e, rdb, letters); err != nil {
		return err
	}
	ofBatches, err := batches.ForgetUser(e.ctx, c.UserID)
	forgotten := ofBatches
	if err == nil {
		var others int64
		others, err = singles.ForgetUser(e.ctx, c.UserID)
		forgotten += others
	}
	sum := sha256.Sum256([]byte(c.UserID)) // a log must not keep the id that is forgotten
	e.audit(rdb, audit.Entry{Action: "history of a user forgotten", Subject: subject("user_sha256", hex.EncodeToString(sum[:])), Count: forgotten}, err)
	if err != nil {
		return redisError(fmt.Errorf("%w; %s removed; run the same command again to remove the others", err, humanize.Count(forgotten, "receipts")))
	}
	if c.JSON {
		return writeJSON(e.stdout, struct {
			Forgotten int64 `json:"forgotten"`
		}{forgotten})
	}
	fmt.Fprintf(e.stdout, "%s forgotten\n", humanize.Count(forgotten, "receipts"))
	return nil
}

// checkOutstanding returns an error if a task of the user would still get a receipt.
func (c *historyForgetCmd) checkOutstanding(e *env, rdb redis.UniversalClient, letters *deadletter.Store) error {
	queues := tasks.QueueWeights()
	delete(queues, tasks.QueueDeadLetter)
	isUsers := func(t waiting.Task) bool { return t.Task.User() == c.UserID }
	outstanding, err := c.count(e, rdb, waiting.Query{Queues: slices.Sorted(maps.Keys(queues)), Matches: isUsers})
	if err != nil {
		return err
	}
	dead, err := c.count(e, rdb, waiting.Query{ // those that are replayed as well
		Queues: []string{tasks.QueueDeadLetter}, Matches: isUsers, Decode: deadletter.DecodeTask,
	})
	if err != nil {
		return err
	}
	for l, err := range letters.List(e.ctx, deadletter.Filter{UserID: c.UserID}) {
		if err != nil {
			return redisError(err)
		}
		if _, _, err := l.Task(); err != nil {
			dead++ // it is no task, but names the user
		}
	}
	if outstanding+dead == 0 {
		return nil
	}
	return commandError{
		fmt.Errorf("nothing was forgotten: of this user %d are outstanding and %d dead, and these tasks would get further receipts", outstanding, dead), exitFailed,
		"wait until the tasks are done, or cancel them; replay or discard the dead ones with kooworker dead replay|discard --user-id",
	}
}

func (c *historyForgetCmd) count(e *env, rdb redis.UniversalClient, q waiting.Query) (n int, err error) {
	for _, err := range waiting.NewStore(rdb).Each(e.ctx, q) {
		if err != nil {
			return 0, redisError(err)
		}
		n++
	}
	return n, nil
}
