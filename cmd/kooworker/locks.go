package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
)

type locksCmd struct {
	Track  locksTrackCmd  `cmd:"" help:"Record a backup lock that somebody has taken, or many locks from a file."`
	Renew  locksRenewCmd  `cmd:"" help:"Record that a lock was renewed. Exit code 3: a worker may be releasing it now."`
	Forget locksForgetCmd `cmd:"" help:"Record that a lock was released by its holder."`
	List   locksListCmd   `cmd:"" help:"List the locks in the ledger, soonest expiry first."`
	Sweep  locksSweepCmd  `cmd:"" help:"Release stale locks. Exit code 3: some are held back."`
}

// lockFlags name one lock, or a file of locks.
type lockFlags struct {
	UserID string    `name:"user-id" placeholder:"ID" help:"KooDrive user the lock belongs to."`
	LockID string    `name:"lock-id" placeholder:"ID" help:"The lock."`
	File   fileFlags `embed:""`
	JSON   bool      `help:"Print JSON."`
}

// anyIDFlag is for commands that put locks into the ledger.
type anyIDFlag struct {
	AllowAnyID bool `name:"allow-any-id" help:"Accept ids that look like a spreadsheet's number (1.5E+18) or like no value (NULL, -)."`
}

type locksTrackCmd struct {
	lockFlags
	anyIDFlag
	ExpiresIn time.Duration `name:"expires-in" default:"10m" placeholder:"DURATION" help:"The lock expires after this time unless it is renewed (${default}). A line of a file may have its own time, in expires_at."`
}

type locksRenewCmd struct {
	lockFlags
	anyIDFlag
	ExpiresIn time.Duration `name:"expires-in" default:"10m" placeholder:"DURATION" help:"The lock expires after this time unless it is renewed again (${default}). A line of a file may have its own time, in expires_at."`
}

type locksForgetCmd struct{ lockFlags }

// Run implements the command.
func (c *locksTrackCmd) Run(e *env, store *locks.Store) error {
	return c.run(e, c.change(&c.lockFlags, c.ExpiresIn, store.Track))
}

// Run implements the command.
func (c *locksRenewCmd) Run(e *env, store *locks.Store) error {
	return c.run(e, c.change(&c.lockFlags, c.ExpiresIn, store.Renew))
}

// Run implements the command.
func (c *locksForgetCmd) Run(e *env, store *locks.Store) error {
	const expires = locks.DefaultTTL // forget does not use it
	return c.run(e, lockChange{expires, c.File.readLockIDs, true, func(ctx context.Context, entries []locks.TrackRequest) ([]locks.Status, error) {
		ids := make([]tasks.LockID, len(entries))
		for i, entry := range entries {
			ids[i] = entry.ID()
		}
		return store.Forget(ctx, ids)
	}})
}

// lockChange is what a command does to locks.
type lockChange struct {
	expires time.Duration // of locks that do not say when they expire
	read    func(io.Reader) iter.Seq2[tasks.Lock, error]
	anyID   bool // of a single lock; read knows it
	apply   func(context.Context, []locks.TrackRequest) ([]locks.Status, error)
}

// change is a change that refuses ids that no system gives, unless they are allowed.
func (f anyIDFlag) change(c *lockFlags, expires time.Duration, apply func(context.Context, []locks.TrackRequest) ([]locks.Status, error)) lockChange {
	read := func(r io.Reader) iter.Seq2[tasks.Lock, error] { return c.File.readLocks(r, anyID(f.AllowAnyID)...) }
	return lockChange{expires, read, f.AllowAnyID, apply}
}

// lockLine is what is printed of one lock.
type lockLine struct {
	UserID string       `json:"user_id"`
	LockID string       `json:"lock_id"`
	Status locks.Status `json:"status"`
}

// refusals are the statuses of changes that did not take effect, and the reasons.
var refusals = map[locks.Status]string{
	locks.Releasing: "a worker may be releasing it right now; treat it as lost",
	locks.Swept:     "its release is enqueued; treat it as lost, or renew it with a later expiry",
	locks.Refused:   fmt.Sprintf("its expiry is more than %d days away", locks.MaxExpiryOffset/(24*time.Hour)),
}

// printRefusal tells people of a change that did not take effect.
func (l lockLine) printRefusal(w io.Writer) {
	fmt.Fprintf(w, "kooworker: %s of %s: %s\n", l.LockID, l.UserID, refusals[l.Status])
}

// run changes one lock, or the locks of a file.
func (c *lockFlags) run(e *env, change lockChange) error {
	if change.expires <= 0 {
		return usagef("--expires-in: %s; want more than 0, such as 10m", change.expires)
	}
	if err := c.File.check(targetFlag{"--user-id", c.UserID}, targetFlag{"--lock-id", c.LockID}); err != nil {
		return err
	}
	if c.File.File != "" {
		return c.runFile(e, change)
	}
	if err := (tasks.LockID{UserID: c.UserID, LockID: c.LockID}).Validate(); err != nil {
		return usageError(err)
	}
	if err := tasks.CheckPlausible(tasks.LockRelease{UserID: c.UserID, LockID: c.LockID}); err != nil && !change.anyID {
		return usagef("%w; or --allow-any-id", err)
	}
	statuses, err := change.apply(e.ctx, []locks.TrackRequest{{UserID: c.UserID, LockID: c.LockID, ExpiresIn: change.expires}})
	if err != nil {
		return redisError(err)
	}
	line := lockLine{c.UserID, c.LockID, statuses[0]}
	if c.JSON {
		err = writeJSON(e.stdout, line)
	} else {
		fmt.Fprintf(e.stdout, "%s %s\n", line.Status, line.LockID)
	}
	if err == nil && refusals[line.Status] != "" {
		line.printRefusal(e.stderr)
		return errPartial
	}
	return err
}

// runFile changes the locks of the file.
func (c *lockFlags) runFile(e *env, change lockChange) error {
	in, rejects, err := c.File.open(e)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	sum := lockSummary{ByStatus: map[locks.Status]int64{}, Refused: []lockLine{}}
	err = change.applyAll(e.ctx, teeRejects(rejects, change.read(cancelableReader{e.ctx, in})), &sum)
	if closeErr := rejects.close(); err == nil && closeErr != nil {
		err = fmt.Errorf("--rejects: %w", closeErr)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		err = writeJSON(e.stdout, sum)
	} else {
		fmt.Fprintf(e.stdout, "%s: %s\n", humanize.Count(sum.Total, "lines"), &sum)
		shown := sum.Refused[:min(len(sum.Refused), 10)]
		for _, line := range shown {
			line.printRefusal(e.stderr)
		}
		if more := len(sum.Refused) - len(shown); more > 0 {
			fmt.Fprintf(e.stderr, "kooworker: and %d more; --json lists all\n", more)
		}
	}
	if err == nil && (len(sum.Refused) > 0 || sum.Rejected > 0) {
		return errPartial
	}
	return err
}

// lockPage is how many locks go to the ledger in one call.
const lockPage = 5000

// applyAll changes the locks of an input page by page, and counts them in sum.
func (c lockChange) applyAll(ctx context.Context, input iter.Seq2[tasks.Lock, error], sum *lockSummary) error {
	page := make([]locks.TrackRequest, 0, lockPage)
	applyPage := func() error { // does nothing if the page is empty
		statuses, err := c.apply(ctx, page)
		for i, status := range statuses { // with an error, they are those from before it
			sum.ByStatus[status]++
			if refusals[status] != "" {
				sum.Refused = append(sum.Refused, lockLine{page[i].UserID, page[i].LockID, status})
			}
		}
		page = page[:0]
		switch {
		case ctx.Err() != nil:
			return sum.interrupted()
		case err != nil:
			return fmt.Errorf("stopped; so far %s: %w; it is safe to run the same command again", sum, redisError(err))
		}
		return nil
	}
	for l, err := range input {
		if is[*records.LineError](err) {
			sum.Total++
			sum.Rejected++
			continue
		}
		if err != nil && ctx.Err() != nil {
			return sum.interrupted()
		}
		if err != nil {
			return usagef("--file: %w", err)
		}
		sum.Total++
		page = append(page, locks.TrackRequest{UserID: l.UserID, LockID: l.LockID, ExpiresIn: c.expires, ExpiresAt: l.ExpiresAt})
		if len(page) == lockPage {
			if err := applyPage(); err != nil {
				return err
			}
		}
	}
	return applyPage()
}

// lockSummary is what is printed of a file.
type lockSummary struct {
	Total    int64                  `json:"total"`
	Rejected int64                  `json:"rejected"`
	ByStatus map[locks.Status]int64 `json:"by_status"`
	// Refused lists the changes that did not take effect.
	Refused []lockLine `json:"refused"`
}

// interrupted is the error after Ctrl-C.
func (s *lockSummary) interrupted() error {
	return fmt.Errorf("interrupted; so far %s; it is safe to run the same command again", s)
}

// String returns the summary for people: "3 tracked, 1 renewed, 0 rejected".
func (s *lockSummary) String() string {
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(s.ByStatus)) {
		parts = append(parts, fmt.Sprintf("%d %s", s.ByStatus[status], status))
	}
	return strings.Join(append(parts, fmt.Sprintf("%d rejected", s.Rejected)), ", ")
}

type locksListCmd struct {
	UserID string        `name:"user-id" placeholder:"ID" help:"Only this user's locks."`
	Stale  bool          `help:"Only stale locks."`
	Grace  time.Duration `default:"${grace}" help:"A lock is stale when it has been expired for this long (${default})."`
	JSON   bool          `help:"Print JSON lines."`
}

// listedLock is the JSON line of a lock.
type listedLock struct {
	UserID    string    `json:"user_id"`
	LockID    string    `json:"lock_id"`
	Module    string    `json:"module"`
	ExpiresAt time.Time `json:"expires_at"`
	Swept     bool      `json:"swept"`
}

// Run implements the command.
func (c *locksListCmd) Run(e *env, store *locks.Store) error {
	list := store.List(e.ctx, locks.Filter{UserID: c.UserID, StaleOnly: c.Stale, Grace: c.Grace})
	if c.JSON {
		return writeJSONLines(e.stdout, false, list, func(l locks.Lock) any {
			return listedLock{l.UserID, l.LockID, l.Lock.ID().Module(), l.ExpiresAt, l.Swept}
		}, redisError)
	}
	table := terminal.NewTable(e.stdout, "EXPIRES", "USER", "LOCK", "SWEPT")
	for l, err := range list {
		if err != nil {
			return redisError(err)
		}
		table.Row(minutes(l.ExpiresAt), terminal.ID(l.UserID), terminal.ID(l.LockID), yesNo(l.Swept))
	}
	return table.Close("No locks.\n")
}
