package locks

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// The keys. The braces make a Redis cluster keep them together.
const (
	expiryKey = "{kooworker:locks}:expiry"
	sweptKey  = "{kooworker:locks}:swept"
	claimsKey = "{kooworker:locks}:claims"
	namesKey  = "{kooworker:locks}:names"
)

// keys are the KEYS of every script that changes something.
func keys() []string { return []string{expiryKey, sweptKey, claimsKey, namesKey} }

// chunk is how many locks a script is about. Redis answers nobody else while
// one runs: it takes some milliseconds.
const chunk = 500

// Store is the ledger of locks in one Redis. It is safe for concurrent use.
type Store struct {
	rdb redis.UniversalClient
}

// NewStore returns a Store over a client, which stays the caller's to close.
func NewStore(rdb redis.UniversalClient) *Store { return &Store{rdb: rdb} }

// nowLua begins the scripts that need to know what time it is.
const nowLua = `
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

// ledgerLua begins the scripts that change the ledger. Their KEYS are expiry,
// swept, claims and names.
//
// Their arguments are checked before they are sent, so that none fails in the
// middle. A Redis that is full refuses a script at its first write, if that
// takes room, or not at all: to move and to remove is possible all the same.
const ledgerLua = nowLua + `
-- The score of a member; false if it has none.
local function score(key, member)
	local text = redis.call("ZSCORE", key, member)
	return text and tonumber(text)
end

-- When the claim on a member is over; false if none is live. One that is over
-- is taken off.
local function claimed(member)
	local over = score(KEYS[3], member)
	if over and over <= now then
		redis.call("ZREM", KEYS[3], member)
		return false
	end
	return over
end
`

// bulk runs a script over rows of arguments, a chunk at a time, each of which
// takes effect as a whole. It returns what the script answers to each row; on an
// error what it has answered so far. The first arguments are the same for each
// chunk.
func (s *Store) bulk(ctx context.Context, verb string, cmd *redis.Script, rows [][]any, first ...any) ([]Status, error) {
	answers := make([]Status, 0, len(rows))
	for len(rows) > 0 {
		n := min(chunk, len(rows))
		args := append([]any(nil), first...)
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		rows = rows[n:]
		words, err := cmd.Run(ctx, s.rdb, keys(), args...).StringSlice()
		if err == nil && len(words) != n {
			err = fmt.Errorf("%d answers; want %d", len(words), n)
		}
		if err != nil {
			return answers, fmt.Errorf("locks: %s: %w", verb, err)
		}
		for _, word := range words {
			answers = append(answers, Status(word))
		}
	}
	return answers, nil
}
