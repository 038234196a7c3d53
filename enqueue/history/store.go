package history

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/userindex"
	"github.com/kooworker/kooworker/tasks"
)

// Store is the history of one Redis. It is safe for concurrent use.
type Store struct {
	rdb redis.UniversalClient
	now func() time.Time
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store { return &Store{rdb: rdb, now: time.Now} }

// How long receipts are kept.
const (
	DefaultKeep = 30 * 24 * time.Hour
	MinKeep     = time.Minute
	MaxKeep     = 10 * 366 * 24 * time.Hour
)

// Off as a time to keep receipts means that none are written.
const Off time.Duration = 0

// CheckKeep reports what is wrong with a time to keep receipts.
func CheckKeep(keep time.Duration) error {
	if keep != Off && (keep < MinKeep || keep > MaxKeep) {
		return fmt.Errorf("history: the time to keep receipts is %s; want %s to ten years", keep, MinKeep)
	}
	return nil
}

// keepKey is the key with the time for which receipts are kept, in ms.
const keepKey = "kooworker:history:keep"

// SetKeep tells all who write receipts for how long they are kept. A worker does so
// when it starts.
func (s *Store) SetKeep(ctx context.Context, keep time.Duration) error {
	if err := s.rdb.Set(ctx, keepKey, keep.Milliseconds(), 0).Err(); err != nil {
		return fmt.Errorf("set how long the history is kept: %w", err)
	}
	return nil
}

// Keep returns for how long receipts are kept, by what the worker said that started last.
func (s *Store) Keep(ctx context.Context) (time.Duration, error) {
	ms, err := s.rdb.Get(ctx, keepKey).Int64()
	if errors.Is(err, redis.Nil) {
		return DefaultKeep, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read how long the history is kept: %w", err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// keys are the keys of the receipts of one day. A Redis cluster keeps them in one slot
// because of the braces.
type keys struct{ receipts, users string }

func keysOf(day time.Time) keys {
	prefix := "kooworker:{history:" + day.UTC().Format(time.DateOnly) + "}:"
	return keys{prefix + "receipts", prefix + "users"}
}

const day = 24 * time.Hour

// recordCmd writes receipts.
//
// KEYS -> receipts, users
// --
// ARGV[1] -> when they expire, in ms
// ARGV[2] -> the fingerprints of their users
// ARGV[3..] -> the receipts, without the time.
var recordCmd = redis.NewScript(`
local time, list = redis.call("TIME"), {}
local now = string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000))
for i = 3, #ARGV do
	list[i - 2] = now .. ARGV[i]
end
redis.call("RPUSH", KEYS[1], unpack(list))
redis.call("APPEND", KEYS[2], ARGV[2])
redis.call("PEXPIREAT", KEYS[1], ARGV[1])
redis.call("PEXPIREAT", KEYS[2], ARGV[1])
return 1
`)

// MaxTogether is how many receipts Record takes at most.
const MaxTogether = 1000

// Record writes the receipts of tasks outside any batch, which are kept at least for
// this long. If keep is Off it writes none. A receipt that is written twice is there
// twice.
func (s *Store) Record(ctx context.Context, receipts []tasks.Receipt, keep time.Duration) error {
	if keep == Off || len(receipts) == 0 {
		return nil
	}
	if len(receipts) > MaxTogether {
		return fmt.Errorf("history: %d receipts at once; want at most %d", len(receipts), MaxTogether)
	}
	today := s.now().UTC().Truncate(day)
	var prints strings.Builder
	args := make([]any, 2, 2+len(receipts))
	for _, r := range receipts {
		text, err := encode(r)
		if err != nil {
			return err
		}
		prints.WriteString(userindex.Fingerprint(r.UserID))
		args = append(args, text)
	}
	args[0], args[1] = today.Add(day+keep).UnixMilli(), prints.String()
	k := keysOf(today)
	if err := recordCmd.Run(ctx, s.rdb, []string{k.receipts, k.users}, args...).Err(); err != nil {
		return fmt.Errorf("history: record outcomes: %w", err)
	}
	return nil
}
