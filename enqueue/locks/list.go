package locks

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/zset"
	"github.com/kooworker/kooworker/tasks"
)

// Counts says how many locks the ledger has.
type Counts struct {
	// Total is the number of all locks, swept ones included.
	Total int64
	// Stale is the number of locks that a sweep would take: their expiry and the
	// grace have passed, and their release is not enqueued.
	Stale int64
	// Swept is the number of locks whose release is enqueued, or dead.
	Swept int64
}

// countCmd counts the locks, all at one moment.
//
// KEYS -> expiry, swept
// --
// ARGV[1] -> ms of grace
//
// Returns the number of locks in expiry, that in swept, and the number of stale
// ones. It changes nothing.
var countCmd = redis.NewScript(nowLua + `
return {redis.call("ZCARD", KEYS[1]), redis.call("ZCARD", KEYS[2]), redis.call("ZCOUNT", KEYS[1], "-inf", now - ARGV[1])}
`)

// Counts counts the locks. A lock is stale once it has been expired for as long as
// grace.
func (s *Store) Counts(ctx context.Context, grace time.Duration) (Counts, error) {
	if err := validGrace(grace); err != nil {
		return Counts{}, err
	}
	n, err := countCmd.Run(ctx, s.rdb, []string{expiryKey, sweptKey}, millisUp(grace)).Int64Slice()
	if err == nil && len(n) != 3 {
		err = fmt.Errorf("%d values; want 3", len(n))
	}
	if err != nil {
		return Counts{}, fmt.Errorf("locks: count: %w", err)
	}
	return Counts{Total: n[0] + n[1], Swept: n[1], Stale: n[2]}, nil
}

func validGrace(grace time.Duration) error {
	if grace < 0 || grace > MaxExpiryOffset {
		return fmt.Errorf("locks: the grace is %s; want 0s to %s", grace, MaxExpiryOffset)
	}
	return nil
}

// pageCmd reads a page of a sorted set, by score and then by member.
//
// The page begins after the last member of the page before, which may have left
// the set meanwhile.
//
// KEYS[1] -> the set
// --
// ARGV[1] -> members in a page
// ARGV[2] -> ms of grace
// ARGV[3] -> the highest score, "" for now minus the grace
// ARGV[4] -> the member after which the page begins, "" for the first page
// ARGV[5] -> the score of that member, -inf for the first page
//
// Returns the highest score, and then each member followed by its score. It
// changes nothing.
var pageCmd = redis.NewScript(nowLua + zset.RankLua + `
local highest = tonumber(ARGV[3]) or now - ARGV[2]
local first = rank(KEYS[1], ARGV[5], ARGV[4] .. "\0")
local rows = redis.call("ZRANGE", KEYS[1], first, first + ARGV[1] - 1, "WITHSCORES")
local out = {string.format("%.0f", highest)}
for i = 1, #rows, 2 do
	if tonumber(rows[i + 1]) > highest then
		break
	end
	out[#out + 1] = rows[i]
	out[#out + 1] = rows[i + 1]
end
return out
`)

// maxScore is a score that is higher than every expiry.
const maxScore = 1 << 53

// pages yields the locks of a set whose score is at most highest. If highest is ""
// it is now minus the grace, as of the first page. It goes on after an
// *UnreadableError, and ends after any other error.
func (s *Store) pages(ctx context.Context, key, highest string, grace time.Duration) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		member, score := "", "-inf"
		for {
			rows, err := pageCmd.Run(ctx, s.rdb, []string{key}, chunk, millisUp(grace), highest, member, score).StringSlice()
			if err == nil && len(rows)%2 != 1 {
				err = fmt.Errorf("cannot read %d values", len(rows))
			}
			if err != nil {
				yield(tasks.Lock{}, fmt.Errorf("locks: list: %w", err))
				return
			}
			highest, rows = rows[0], rows[1:]
			for i := 0; i < len(rows); i += 2 {
				member, score = rows[i], rows[i+1]
				lock, err := parseLock(member, score)
				if !yield(lock, err) {
					return
				}
			}
			if len(rows) < 2*chunk {
				return
			}
		}
	}
}

// Stale yields the locks that a sweep should take, the oldest first: those in
// expiry that have been expired for as long as grace when Stale begins. It yields
// each lock once. It leaves out a lock that is renewed, forgotten or swept before
// it is reached, and skips no other for that. It goes on after an *UnreadableError,
// and ends after any other error.
func (s *Store) Stale(ctx context.Context, grace time.Duration) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		if err := validGrace(grace); err != nil {
			yield(tasks.Lock{}, err)
			return
		}
		// A lock comes again if it is renewed meanwhile with an expiry that has
		// passed as well.
		seen := make(map[tasks.LockID]bool)
		for lock, err := range s.pages(ctx, expiryKey, "", grace) {
			if err == nil && seen[lock.ID()] {
				continue
			}
			seen[lock.ID()] = true
			if !yield(lock, err) {
				return
			}
		}
	}
}

// Filter says which locks List yields. The zero value means all.
type Filter struct {
	// UserID: only the locks of this user. Empty: those of all users.
	UserID string
	// StaleOnly: only what a sweep with this Grace would take; see Store.Stale.
	StaleOnly bool
	Grace     time.Duration
}

// List yields locks for people: first those that were swept and are not known to be
// released, then those that somebody holds. Both begin with the oldest. A lock that
// changes meanwhile may be missing or come twice. List ends after the first error.
func (s *Store) List(ctx context.Context, f Filter) iter.Seq2[Lock, error] {
	if f.UserID != "" {
		return s.listOfUser(ctx, f)
	}
	return func(yield func(Lock, error) bool) {
		highest := strconv.Itoa(maxScore)
		lists := []iter.Seq2[tasks.Lock, error]{s.pages(ctx, sweptKey, highest, 0), s.pages(ctx, expiryKey, highest, 0)}
		if f.StaleOnly {
			lists = []iter.Seq2[tasks.Lock, error]{s.Stale(ctx, f.Grace)}
		}
		for i, list := range lists {
			swept := i == 0 && !f.StaleOnly
			for lock, err := range list {
				if !yield(Lock{lock, swept}, err) || err != nil {
					return
				}
			}
		}
	}
}
