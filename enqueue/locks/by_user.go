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

// listByUserCmd reads a page of the locks of one user, by member. A lock that stays
// in the ledger keeps its place in names whatever happens to it, so that pages
// neither skip nor repeat it.
//
// KEYS -> names, expiry, swept
// --
// ARGV[1], ARGV[2] -> the range of members, as ZRANGEBYLEX wants it
// ARGV[3] -> members in a page
//
// Returns now in ms, the last member of the page if the page is full, else "", and
// then of each lock its member, its expiry, and 1 if it was swept, else 0. It
// leaves out a member that is neither in expiry nor in swept. It changes nothing.
var listByUserCmd = redis.NewScript(nowLua + `
local members = redis.call("ZRANGEBYLEX", KEYS[1], ARGV[1], ARGV[2], "LIMIT", 0, ARGV[3])
local out = {string.format("%.0f", now), #members == tonumber(ARGV[3]) and members[#members] or ""}
for _, member in ipairs(members) do
	local tracked = redis.call("ZSCORE", KEYS[2], member)
	local expiry = tracked or redis.call("ZSCORE", KEYS[3], member)
	if expiry then
		out[#out + 1] = member
		out[#out + 1] = expiry
		out[#out + 1] = tracked and "0" or "1"
	end
end
return out
`)

// ListByUser returns the locks of one user, live ones and swept ones, in the order
// of List. A lock that is tracked or forgotten meanwhile may be missing or not.
func (s *Store) ListByUser(ctx context.Context, userID string) ([]Lock, error) {
	if err := (tasks.UserOffboard{UserID: userID}).Validate(); err != nil {
		return nil, fmt.Errorf("locks: list those of a user: %w", err)
	}
	locks, _, err := s.listByUser(ctx, userID)
	return locks, err
}

// listByUser also returns the time of the first page. It finds no locks for a text
// that is no user's id.
func (s *Store) listByUser(ctx context.Context, userID string) (locks []Lock, at time.Time, err error) {
	const values = 3                           // of each lock
	from, to := "["+userID+" ", "("+userID+"!" // the character after the space
	for {
		rows, err := listByUserCmd.Run(ctx, s.rdb, []string{byUserKey, expiryKey, sweptKey}, from, to, chunk).StringSlice()
		if err == nil && len(rows)%values != 2 {
			err = fmt.Errorf("cannot read %d values", len(rows))
		}
		var now int64
		if err == nil {
			now, err = strconv.ParseInt(rows[0], 10, 64)
		}
		if err != nil {
			return nil, at, fmt.Errorf("locks: list those of %s: %w", userID, err)
		}
		if at.IsZero() {
			at = time.UnixMilli(now)
		}
		for row := range slices.Chunk(rows[2:], values) {
			lock, err := parseLock(row[0], row[1])
			if err != nil {
				return nil, at, err
			}
			locks = append(locks, Lock{lock, row[2] == "1"})
		}
		if rows[1] == "" { // the page is not full, so it is the last
			slices.SortFunc(locks, compareLocks)
			return locks, at, nil
		}
		from = "(" + rows[1]
	}
}

// compareLocks orders locks as List does.
func compareLocks(a, b Lock) int {
	if a.Swept != b.Swept {
		if a.Swept {
			return -1
		}
		return 1
	}
	return cmp.Or(a.ExpiresAt.Compare(b.ExpiresAt), strings.Compare(member(a.ID()), member(b.ID())))
}

// listOfUser is List for one user.
func (s *Store) listOfUser(ctx context.Context, f Filter) iter.Seq2[Lock, error] {
	return func(yield func(Lock, error) bool) {
		if err := validGrace(f.Grace); f.StaleOnly && err != nil {
			yield(Lock{}, err)
			return
		}
		locks, at, err := s.listByUser(ctx, f.UserID)
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
