package locks

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// userCmd reads a page of the locks of one user, by their names. One that stays
// in the ledger keeps its place whatever becomes of it, so that pages neither skip
// nor repeat it.
//
// KEYS -> names, expiry, swept
// --
// ARGV[1], ARGV[2] -> between which names, as ZRANGEBYLEX wants it
// ARGV[3] -> names in a page
//
// Returns now in ms, the last name of a page that is full, else "", and then of
// each lock its member, its expiry, and 1 if it was swept, else 0. A name that is
// in neither is left out. It changes nothing.
var userCmd = redis.NewScript(nowLua + `
local names = redis.call("ZRANGEBYLEX", KEYS[1], ARGV[1], ARGV[2], "LIMIT", 0, ARGV[3])
local out = {string.format("%.0f", now), #names == tonumber(ARGV[3]) and names[#names] or ""}
for _, name in ipairs(names) do
	local tracked = redis.call("ZSCORE", KEYS[2], name)
	local expiry = tracked or redis.call("ZSCORE", KEYS[3], name)
	if expiry then
		out[#out + 1] = name
		out[#out + 1] = expiry
		out[#out + 1] = tracked and "0" or "1"
	end
end
return out
`)

// ListByUser returns the locks of one user, in the order of List. One that is tracked
// or forgotten meanwhile may be missing or not.
func (s *Store) ListByUser(ctx context.Context, userID string) ([]Lock, error) {
	if err := (tasks.UserOffboard{UserID: userID}).Validate(); err != nil {
		return nil, fmt.Errorf("locks: those of a user: %w", err)
	}
	locks, _, err := s.ofUser(ctx, userID)
	return locks, err
}

// ofUser also returns the time of the first page. Of what is no user's id there
// are no locks.
func (s *Store) ofUser(ctx context.Context, userID string) (locks []Lock, at time.Time, err error) {
	const values = 3                           // of each lock
	from, to := "["+userID+" ", "("+userID+"!" // the character after the space
	for {
		rows, err := userCmd.Run(ctx, s.rdb, []string{namesKey, expiryKey, sweptKey}, from, to, chunk).StringSlice()
		if err == nil && len(rows)%values != 2 {
			err = fmt.Errorf("cannot read %d values", len(rows))
		}
		if err != nil {
			return nil, at, fmt.Errorf("locks: those of %s: %w", userID, err)
		}
		now, last := rows[0], rows[1]
		for row := range slices.Chunk(rows[2:], values) {
			lock, err := lockOf(row[0], row[1])
			if err != nil {
				return nil, at, err
			}
			locks = append(locks, Lock{lock, row[2] == "1"})
		}
		if at.IsZero() {
			ms, err := strconv.ParseInt(now, 10, 64)
			if err != nil {
				return nil, at, fmt.Errorf("locks: those of %s: %w", userID, err)
			}
			at = time.UnixMilli(ms)
		}
		if last == "" {
			slices.SortFunc(locks, inOrder)
			return locks, at, nil
		}
		from = "(" + last
	}
}

// inOrder is the order of List.
func inOrder(a, b Lock) int {
	if a.Swept != b.Swept {
		if a.Swept {
			return -1
		}
		return 1
	}
	return cmp.Or(a.ExpiresAt.Compare(b.ExpiresAt), strings.Compare(member(a.ID()), member(b.ID())))
}

// listUser is List for one user.
func (s *Store) listUser(ctx context.Context, f Filter) iter.Seq2[Lock, error] {
	return func(yield func(Lock, error) bool) {
		if err := validGrace(f.Grace); f.StaleOnly && err != nil {
			yield(Lock{}, err)
			return
		}
		locks, at, err := s.ofUser(ctx, f.UserID)
		if err != nil {
			yield(Lock{}, err)
			return
		}
		for _, lock := range locks {
			if stale := !lock.Swept && !lock.ExpiresAt.After(at.Add(-f.Grace)); f.StaleOnly && !stale {
				continue
			}
			if !yield(lock, nil) {
				return
			}
		}
	}
}

// Held returns the locks of one user: those that somebody holds, and those that
// were swept and are not known to be released.
func (k Keeping) Held(ctx context.Context, userID string) (lockIDs []string, err error) {
	locks, err := k.Store.ListByUser(ctx, userID)
	for _, l := range locks {
		lockIDs = append(lockIDs, l.LockID)
	}
	return lockIDs, err
}
