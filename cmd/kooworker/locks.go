package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

type locksCmd struct {
	Track  locksTrackCmd  `cmd:"" help:"Note a backup lock that somebody has taken, or many from a file."`
	Renew  locksRenewCmd  `cmd:"" help:"Note that a lock was renewed. Exit code 3: it is being released just now."`
	Forget locksForgetCmd `cmd:"" help:"Note that a lock was released by its holder."`
	List   locksListCmd   `cmd:"" help:"List the locks that are known, soonest expiry first."`
	Sweep  locksSweepCmd  `cmd:"" help:"Release the locks whose holder went away. Exit code 3: some are held back."`
}

// lockFlags name one lock, or a file of them.
type lockFlags struct {
	UserID  string    `name:"user-id" placeholder:"ID" help:"KooDrive user the lock belongs to."`
	LockID  string    `name:"lock-id" placeholder:"ID" help:"The lock."`
	File    fileFlags `embed:""`
	JSON    bool      `help:"Print JSON."`
	expires time.Duration
}

type locksTrackCmd struct {
	lockFlags
	ExpiresIn time.Duration `name:"expires-in" default:"10m" placeholder:"DURATION" help:"It expires then, unless it is renewed (${default}). A line of a file may say when instead, in expires_at."`
}

type locksRenewCmd struct {
	lockFlags
	ExpiresIn time.Duration `name:"expires-in" default:"10m" placeholder:"DURATION" help:"It expires then, unless it is renewed again (${default}). A line of a file may say when instead, in expires_at."`
}

type locksForgetCmd struct {
	lockFlags
}

// Run implements the command.
func (c *locksTrackCmd) Run(a *app) error {
	c.expires = c.ExpiresIn
	return c.run(a, c.File.readLocks, func(s *locks.Store) lockChange { return s.Track })
}

// Run implements the command.
func (c *locksRenewCmd) Run(a *app) error {
	c.expires = c.ExpiresIn
	return c.run(a, c.File.readLocks, func(s *locks.Store) lockChange { return s.Renew })
}

// Run implements the command.
func (c *locksForgetCmd) Run(a *app) error {
	c.expires = locks.DefaultTTL // not looked at
	return c.run(a, c.File.readLockIDs, func(s *locks.Store) lockChange {
		return func(ctx context.Context, entries []locks.TrackRequest) ([]locks.Status, error) {
			ids := make([]tasks.LockID, len(entries))
			for i, e := range entries {
				ids[i] = e.ID()
			}
			return s.Forget(ctx, ids)
		}
	})
}

func lockStore(a *app) (store *locks.Store, done func(), err error) {
	a.flags.Log.quiet(a.stderr)
	rdb, err := a.flags.Redis.client(4)
	if err != nil {
		return nil, nil, err
	}
	return locks.NewStore(rdb), func() { _ = rdb.Close() }, nil
}

// lockReader reads a file of locks. Of one that does not say when it expires,
// ExpiresAt is zero.
type lockReader func(io.Reader) iter.Seq2[tasks.Lock, error]

// lockChange is what a command does to locks.
type lockChange func(context.Context, []locks.TrackRequest) ([]locks.Status, error)

// lockLine is what is printed of one lock.
type lockLine struct {
	UserID string       `json:"user_id"`
	LockID string       `json:"lock_id"`
	Status locks.Status `json:"status"`
}

// run changes one lock, or those of a file.
func (c *lockFlags) run(a *app, read lockReader, change func(*locks.Store) lockChange) error {
	if c.expires <= 0 {
		return usagef("--expires-in: %s; want more than 0, such as 10m", c.expires)
	}
	if c.File.File != "" {
		if c.UserID+c.LockID != "" {
			return usagef("--file: leave out --user-id and --lock-id, which the file holds")
		}
		return c.many(a, read, change)
	}
	if err := c.File.refuse(); err != nil {
		return err
	}
	id := tasks.LockID{UserID: c.UserID, LockID: c.LockID}
	if c.UserID == "" || c.LockID == "" {
		return usagef("want --user-id and --lock-id, or --file")
	}
	if err := id.Validate(); err != nil {
		return usageError{err}
	}
	store, done, err := lockStore(a)
	if err != nil {
		return err
	}
	defer done()
	statuses, err := change(store)(a.ctx, []locks.TrackRequest{{UserID: c.UserID, LockID: c.LockID, ExpiresIn: c.expires}})
	if err != nil {
		return redisError{err}
	}
	line := lockLine{c.UserID, c.LockID, statuses[0]}
	if c.JSON {
		err = writeJSON(a.stdout, line)
	} else {
		say(a.stdout, "%s %s\n", line.Status, line.LockID)
	}
	if why := refusals[line.Status]; err == nil && why != "" {
		say(a.stderr, "kooworker: %s of %s: %s\n", line.LockID, line.UserID, why)
		return errPartial
	}
	return err
}

// refusals are the answers that say that what was asked for is not so, and why.
var refusals = map[locks.Status]string{
	locks.Releasing: "a worker may be releasing it right now; take it as lost",
	locks.Swept:     "its release is enqueued; take it as lost, or renew it with a later expiry",
	locks.Refused:   fmt.Sprintf("its expiry is more than %d days away", locks.MaxExpiryOffset/(24*time.Hour)),
}

// lockSummary is what is printed of a file.
type lockSummary struct {
	Total    int64                  `json:"total"`
	Rejected int64                  `json:"rejected"`
	ByStatus map[locks.Status]int64 `json:"by_status"`
	// Refused are the locks of which what was asked for is not so.
	Refused []lockLine `json:"refused"`
}

// add takes the ledger's answers into account.
func (s *lockSummary) add(page []locks.TrackRequest, statuses []locks.Status) {
	for i, status := range statuses {
		s.ByStatus[status]++
		if refusals[status] != "" {
			s.Refused = append(s.Refused, lockLine{page[i].UserID, page[i].LockID, status})
		}
	}
}

// sayRefused names some of what is refused to people.
func (s *lockSummary) sayRefused(w io.Writer) {
	const most = 10
	for i, line := range s.Refused {
		if i == most {
			say(w, "kooworker: and %d more; --json names all\n", len(s.Refused)-most)
			return
		}
		say(w, "kooworker: %s of %s: %s\n", line.LockID, line.UserID, refusals[line.Status])
	}
}

// String is for people: "3 tracked, 1 renewed, 0 rejected".
func (s *lockSummary) String() string {
	var words []string
	for _, status := range slices.Sorted(maps.Keys(s.ByStatus)) {
		words = append(words, fmt.Sprintf("%d %s", s.ByStatus[status], status))
	}
	return strings.Join(append(words, fmt.Sprintf("%d rejected", s.Rejected)), ", ")
}

// lockPage is how many locks go to the ledger in one call.
const lockPage = 5000

// many changes the locks of a file.
func (c *lockFlags) many(a *app, read lockReader, change func(*locks.Store) lockChange) error {
	in, rejects, err := c.File.begin(a)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	store, done, err := lockStore(a)
	if err != nil {
		return err
	}
	defer done()
	sum := lockSummary{ByStatus: map[locks.Status]int64{}, Refused: []lockLine{}}
	for page, err := range lockPages(keepRejects(rejects, read(interruptible{a.ctx, in})), c.expires, &sum) {
		if err != nil {
			_ = rejects.close()
			return usagef("--file: %w", err)
		}
		statuses, err := change(store)(a.ctx, page)
		sum.add(page, statuses) // those that it has answered before an error, too
		if err != nil {
			_ = rejects.close()
			return fmt.Errorf("stopped; so far %s: %w; the same command again does no harm", &sum, redisError{err})
		}
	}
	if err := rejects.close(); err != nil {
		return fmt.Errorf("--rejects: %w", err)
	}
	if c.JSON {
		err = writeJSON(a.stdout, sum)
	} else {
		say(a.stdout, "%d lines: %s\n", sum.Total, &sum)
		sum.sayRefused(a.stderr)
	}
	if err == nil && (len(sum.Refused) > 0 || sum.Rejected > 0) {
		return errPartial
	}
	return err
}

// lockPages cuts a file into pages, and counts its lines. A lock of which the file
// does not say when it expires has the time that is given.
func lockPages(in iter.Seq2[tasks.Lock, error], expires time.Duration, sum *lockSummary) iter.Seq2[[]locks.TrackRequest, error] {
	return func(yield func([]locks.TrackRequest, error) bool) {
		var page []locks.TrackRequest
		for l, err := range in {
			if _, bad := errors.AsType[*records.LineError](err); bad {
				sum.Total++
				sum.Rejected++
				continue
			}
			if err != nil {
				yield(nil, err)
				return
			}
			sum.Total++
			page = append(page, locks.TrackRequest{UserID: l.UserID, LockID: l.LockID, ExpiresIn: expires, ExpiresAt: l.ExpiresAt})
			if len(page) == lockPage {
				if !yield(page, nil) {
					return
				}
				page = nil
			}
		}
		if len(page) > 0 {
			yield(page, nil)
		}
	}
}

type locksListCmd struct {
	UserID string        `name:"user-id" placeholder:"ID" help:"Only this user's."`
	Stale  bool          `help:"Only those whose holder went away."`
	Grace  time.Duration `default:"${grace}" help:"Time after the expiry for which a lock is left alone (${default})."`
	JSON   bool          `help:"Print JSON lines."`
}

// listBlock is how many lines of the table are aligned to each other: a million
// would have to be held in memory.
const listBlock = 1000

// listedLock is a lock as list prints it.
type listedLock struct {
	UserID    string    `json:"user_id"`
	LockID    string    `json:"lock_id"`
	Module    string    `json:"module"`
	ExpiresAt time.Time `json:"expires_at"`
	Swept     bool      `json:"swept"`
}

// Run implements the command.
func (c *locksListCmd) Run(a *app) error {
	store, done, err := lockStore(a)
	if err != nil {
		return err
	}
	defer done()
	buffered := bufio.NewWriter(a.stdout)
	out := tabwriter.NewWriter(buffered, 0, 0, 2, ' ', 0)
	n := 0
	for l, err := range store.List(a.ctx, locks.Filter{UserID: c.UserID, StaleOnly: c.Stale, Grace: c.Grace}) {
		if err != nil {
			return redisError{err}
		}
		if n++; c.JSON {
			if err := writeJSON(buffered, listedLock{l.UserID, l.LockID, l.Lock.ID().Module(), l.ExpiresAt, l.Swept}); err != nil {
				return err
			}
			continue
		}
		if n == 1 {
			say(out, "EXPIRES\tUSER\tLOCK\tSWEPT\n")
		}
		if n%listBlock == 0 {
			_ = out.Flush() // what fails is said at the end
		}
		say(out, "%s\t%s\t%s\t%s\n", l.ExpiresAt.Local().Format(time.DateTime), l.UserID, l.LockID, yesNo(l.Swept))
	}
	if n == 0 && !c.JSON {
		say(out, "No locks.\n")
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
