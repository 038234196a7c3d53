package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/userindex"
	"github.com/kooworker/kooworker/tasks"
)

// OfUser yields the receipts of a user's tasks outside any batch, oldest first. It ends
// with an error if Redis fails.
func (s *Store) OfUser(ctx context.Context, userID string) iter.Seq2[tasks.Receipt, error] {
	return func(yield func(tasks.Receipt, error) bool) {
		for e, err := range s.entries(ctx, userID) {
			if !yield(e.receipt, err) || err != nil {
				return
			}
		}
	}
}

// entry is a receipt of the user, and where it is.
type entry struct {
	receipt  tasks.Receipt
	keys     keys
	position int64
	text     string
}

const (
	together = 500             // entries that are read in one exchange
	part     = 1000 * 1000     // bytes of an index; Redis copies them in less than a millisecond
	width    = userindex.Width // bytes of the index for each receipt
)

// entries yields the receipts of a user.
func (s *Store) entries(ctx context.Context, userID string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		days, err := s.days(ctx)
		for _, d := range days {
			var positions []int64
			if err == nil {
				positions, err = s.positions(ctx, d, userindex.Fingerprint(userID))
			}
			for some := range slices.Chunk(positions, together) {
				var found []entry
				if err == nil {
					found, err = s.read(ctx, d.keys, userID, some)
				}
				for _, e := range found {
					if !yield(e, nil) {
						return
					}
				}
			}
		}
		if err != nil {
			yield(entry{}, err)
		}
	}
}

// dayLog is the receipts of a day.
type dayLog struct {
	keys

	receipts int64
}

// days returns the days that have receipts, the first one first. The last one that is
// looked for is tomorrow, since the clock of a worker may be ahead.
func (s *Store) days(ctx context.Context) (days []dayLog, err error) {
	var lengths []*redis.IntCmd
	today := s.now().UTC().Truncate(day)
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for d := today.Add(-MaxKeep - day); !d.After(today.Add(day)); d = d.Add(day) {
			k := keysOf(d)
			days, lengths = append(days, dayLog{keys: k}), append(lengths, p.LLen(ctx, k.receipts))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("history: look for the days: %w", err)
	}
	for i := range days {
		days[i].receipts = lengths[i].Val()
	}
	return slices.DeleteFunc(days, func(d dayLog) bool { return d.receipts == 0 }), nil
}

// positions returns where the receipts of a user may be. Another user may have the same
// fingerprint. If the index is shorter than the list, somebody has written to them by
// hand, and every receipt may be the user's.
func (s *Store) positions(ctx context.Context, d dayLog, mark string) (positions []int64, err error) {
	known := int64(0)
	for {
		text, err := s.rdb.GetRange(ctx, d.users, known*width, known*width+part*width-1).Result()
		if err != nil {
			return nil, fmt.Errorf("history: read the index: %w", err)
		}
		for at := 0; at+width <= len(text); at += width {
			if text[at:at+width] == mark {
				positions = append(positions, known+int64(at/width))
			}
		}
		known += int64(len(text) / width)
		if len(text) < part*width {
			break
		}
	}
	if known < d.receipts {
		positions = make([]int64, d.receipts)
		for i := range positions {
			positions[i] = int64(i)
		}
	}
	return positions, nil
}

// read reads what is at these positions, and returns the receipts of the user.
func (s *Store) read(ctx context.Context, k keys, userID string, positions []int64) (found []entry, err error) {
	texts := make([]*redis.StringCmd, len(positions))
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, at := range positions {
			texts[i] = p.LIndex(ctx, k.receipts, at)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) { // nil: the receipts have just expired
		return nil, fmt.Errorf("history: read receipts: %w", err)
	}
	for i, at := range positions {
		text := texts[i].Val()
		if text == "" { // it was forgotten
			continue
		}
		r, err := decode(text)
		if err != nil {
			return nil, err
		}
		if r.UserID == userID {
			found = append(found, entry{r, k, at, text})
		}
	}
	return found, nil
}

// forgetCmd empties receipts of a user, and their fingerprints. Positions stay as they
// are.
//
// KEYS -> receipts, users
// --
// ARGV[1..] -> position and text of each receipt
//
// Returns how many there were.
var forgetCmd = redis.NewScript(`
local n = 0
for i = 1, #ARGV, 2 do
	if redis.call("LINDEX", KEYS[1], ARGV[i]) == ARGV[i + 1] then
		redis.call("LSET", KEYS[1], ARGV[i], "")
		n = n + 1
		if redis.call("STRLEN", KEYS[2]) >= 3 * ARGV[i] + 3 then
			redis.call("SETRANGE", KEYS[2], 3 * ARGV[i], "\0\0\0")
		end
	end
end
return n
`)

// ForgetUser removes the receipts of a user, and returns how many there were. Forgetting
// twice has the effect of forgetting once.
func (s *Store) ForgetUser(ctx context.Context, userID string) (forgotten int64, err error) {
	args := make(map[keys][]any)
	for e, err := range s.entries(ctx, userID) {
		if err != nil {
			return 0, err
		}
		args[e.keys] = append(args[e.keys], e.position, e.text)
	}
	for k, args := range args {
		for some := range slices.Chunk(args, 2*together) {
			n, err := forgetCmd.Run(ctx, s.rdb, []string{k.receipts, k.users}, some...).Int64()
			if err != nil {
				return forgotten, fmt.Errorf("history: forget a user: %w", err)
			}
			forgotten += n
		}
	}
	return forgotten, nil
}
