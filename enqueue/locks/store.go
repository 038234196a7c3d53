package locks

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// The keys of the ledger. The braces make a Redis cluster keep them together.
const (
	expiryKey = "{kooworker:locks}:expiry"
	sweptKey  = "{kooworker:locks}:swept"
	claimsKey = "{kooworker:locks}:claims"
	byUserKey = "{kooworker:locks}:names"
)

// keys are the KEYS of every script that changes the ledger.
func keys() []string { return []string{expiryKey, sweptKey, claimsKey, byUserKey} }

// chunk is the number of locks that one script handles at most. A script of this
// size blocks Redis for some milliseconds.
const chunk = 500

// Store is the ledger of locks in one Redis. It is safe for concurrent use.
type Store struct {
	rdb redis.UniversalClient
}

// NewStore returns a Store over a client. The caller closes the client.
func NewStore(rdb redis.UniversalClient) *Store { return &Store{rdb: rdb} }

// nowLua begins the scripts that need the time.
const nowLua = `
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

// ledgerLua begins the scripts that change the ledger. Their KEYS are expiry,
// swept, claims and names.
//
// Go validates their arguments before it sends them, so that no script fails
// half-way. A Redis that is full refuses a script at its first write if that
// write needs memory; moving and removing locks still works.
const ledgerLua = nowLua + `
-- The score of a member; false if it has none.
local function score(key, member)
	local text = redis.call("ZSCORE", key, member)
	return text and tonumber(text)
end

-- The time at which the claim on a member ends; false if there is no live claim.
-- A claim that has ended is removed.
local function claimed(member)
	local ends = score(KEYS[3], member)
	if ends and ends <= now then
		redis.call("ZREM", KEYS[3], member)
		return false
	end
	return ends
end
`

// runChunked runs a script over items, one chunk at a time. Each chunk takes effect
// as a whole, and gets the arguments in first and then those that row returns for
// its items. If row refuses an item nothing is run. runChunked returns the script's
// answer to each item; after an error, the answers so far.
func runChunked[T any](ctx context.Context, rdb redis.UniversalClient, keys []string, verb string, cmd *redis.Script, items []T, row func(T) ([]any, error), first ...any) ([]Status, error) {
	rows := make([][]any, len(items))
	for i, item := range items {
		var err error
		if rows[i], err = row(item); err != nil {
			return nil, fmt.Errorf("locks: %s number %d: %w", verb, i+1, err)
		}
	}
	answers := make([]Status, 0, len(rows))
	for page := range slices.Chunk(rows, chunk) {
		args := slices.Concat(first, slices.Concat(page...))
		words, err := cmd.Run(ctx, rdb, keys, args...).StringSlice()
		if err == nil && len(words) != len(page) {
			err = fmt.Errorf("%d answers; want %d", len(words), len(page))
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
