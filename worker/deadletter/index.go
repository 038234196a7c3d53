package deadletter

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// The index lists the letters in sorted sets of IDs, so that finding 12 letters among a
// million does not read a million. Each letter is in one set for its reason and kind, in
// one of 65,536 sets for its user, if it has one, and in one for its batch, if it has one:
//
//	kooworker:{dead-letter}:reason:<reason>:<kind>
//	kooworker:{dead-letter}:user:<the hash of the user>
//	kooworker:{dead-letter}:batch:<batch>
//
// A reason or a kind that this version does not know counts as "unknown", so the sets for
// reasons and kinds are few, and all of them together list every letter. The sets for
// users are so many that a user shares a set with some dozens among a million.
//
// # Scores
//
// The score of an entry is when the letter died, in µs by Redis' clock, and one more than
// the score before, if that clock has not moved on or goes back. So no two deaths have one
// score, and a death has a higher score than all deaths before it, whichever worker writes it.
// A letter has one score in all its sets. So several sets can be read as if they were
// one, and a position in one is a position in the others. What changes all letters that
// match notes the highest score first. Letters that it has replayed, and that die again,
// are above it, and none is replayed twice.
//
// A letter that says it died at quite another time is also in the set misdated: the clock
// of its worker is wrong, or the letter lay somewhere else. A search by age begins at a
// place that the scores tell, and reads that set besides.
//
// # Entries and letters
//
// An entry goes with its letter: Discard removes it, and the worker calls Unindex when a
// replay has succeeded. If somebody deletes the letter by hand, or the worker dies in
// between, the entry is removed when it is read, or by PruneIndex. A letter that has died of
// another reason since still has the old entry, until it is gone. So the letter itself is
// always read, and counts only in the set of the reason that it shows.
//
// No entry is missing. Park adds a letter's entries after it has stored the letter and before
// it returns, and the worker and the repairer call IndexDeath before they park a replay that
// failed. If Park is interrupted between storing and indexing, the original task stays where
// it was and will be parked again. Only a letter whose work is done has none, if asynq
// could not remove it. Letters that an earlier version has parked get theirs from
// EnsureIndex, which every reader calls; and workers look for missing ones all the time,
// since an earlier version may still run. See Reindex.
//
// The set sets lists the names of all sets, so that PruneIndex finds them.
const indexPrefix = "kooworker:{" + tasks.QueueDeadLetter + "}:"

const (
	setsKey     = indexPrefix + "sets"
	clockKey    = indexPrefix + "clock"
	indexedKey  = indexPrefix + "indexed"
	misdatedSet = "misdated"
)

// unknownReason is the reason of the set for letters whose reason this version does not know.
const unknownReason tasks.Reason = "unknown"

// maxClockSkew is how far the time that a letter names may be from its score, in µs. The clocks of
// workers may be wrong by five seconds, see package clock; and storing a letter takes a while.
const maxClockSkew = 30 * 1_000_000

// slot is one of the sets for reasons and kinds.
type slot struct {
	reason tasks.Reason
	kind   tasks.Kind
}

// slotOf returns the slot of a letter.
func slotOf(l Letter) slot {
	s := slot{l.Reason, l.Kind}
	if !s.reason.Known() {
		s.reason = unknownReason
	}
	if !s.kind.Known() {
		s.kind = KindUnknown
	}
	return s
}

func (s slot) set() string { return "reason:" + string(s.reason) + ":" + string(s.kind) }

// slotReasons and slotKinds are what slots are made of.
func slotReasons() []tasks.Reason { return append(tasks.Reasons(), unknownReason) }

func slotKinds() []tasks.Kind { return append(tasks.Kinds(), KindUnknown) }

// userSet is the set for a user, whom others share.
func userSet(user string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(user))
	return fmt.Sprintf("user:%04x", h.Sum32()>>16^h.Sum32()&0xffff)
}

func batchSet(batch string) string { return "batch:" + batch }

// setsOf returns the names of a letter's sets: first the one of its slot.
func setsOf(l Letter) []string {
	sets := []string{slotOf(l).set()}
	if l.UserID != "" {
		sets = append(sets, userSet(l.UserID))
	}
	if l.Batch != "" {
		sets = append(sets, batchSet(l.Batch))
	}
	return sets
}

// indexCmd adds a letter to its sets. A new death gets a new score in all of them, else
// only what is missing is added, with the score that the letter has.
//
// KEYS[1] -> kooworker:{dead-letter}:clock, the score that was given last
// KEYS[2] -> kooworker:{dead-letter}:sets
// KEYS[3] -> kooworker:{dead-letter}:misdated
// KEYS[4…] -> the letter's sets
// --
// ARGV[1] -> ID
// ARGV[2] -> 1 if it has just died, or is about to
// ARGV[3] -> when it died, in µs as it says itself; "" if unknown
// ARGV[4] -> how far this may be from its score
// ARGV[5] -> 1 if ARGV[3] is its score, should it have none
// ARGV[6…] -> the names of its sets
//
// Returns how many of its sets it was added to.
var indexCmd = redis.NewScript(`
local function number(n) return string.format("%.0f", n) end
local function tick()
	local now = redis.call("TIME")
	local at = math.max(now[1] * 1000000 + now[2], (tonumber(redis.call("GET", KEYS[1])) or 0) + 1)
	redis.call("SET", KEYS[1], number(at))
	return at
end

local id, died, score, missing = ARGV[1], tonumber(ARGV[3]), nil, {}
for i = 4, #KEYS do
	local has = ARGV[2] ~= "1" and redis.call("ZSCORE", KEYS[i], id)
	if has then
		score = math.max(score or 0, tonumber(has))
	else
		missing[#missing + 1] = i
	end
end
if #missing == 0 then return 0 end
if not score then
	score = tick()
	if ARGV[5] == "1" and died and died < score then score = died end
end
for _, i in ipairs(missing) do
	redis.call("ZADD", KEYS[i], number(score), id)
	redis.call("ZADD", KEYS[2], 0, ARGV[i + 2])
end
if died and math.abs(died - score) > tonumber(ARGV[4]) then
	redis.call("ZADD", KEYS[3], number(score), id)
	redis.call("ZADD", KEYS[2], 0, "` + misdatedSet + `")
elseif ARGV[2] == "1" then
	redis.call("ZREM", KEYS[3], id)
end
return #missing
`)

// indexMode says what a letter's entries are made for.
type indexMode int

const (
	hasDied   indexMode = iota // it has just died, or is about to be parked again
	isThere                    // it is there, and may lack entries
	wasParked                  // the same, and an earlier version has parked it
)

// indexArgs returns the KEYS and ARGV of indexCmd.
func indexArgs(l Letter, mode indexMode) (keys []string, args []any) {
	flag := map[bool]string{true: "1", false: "0"}
	keys = []string{clockKey, setsKey, indexPrefix + misdatedSet}
	var died any = ""
	if !l.DeadAt.IsZero() {
		died = l.DeadAt.UnixMicro()
	}
	args = []any{l.ID, flag[mode == hasDied], died, maxClockSkew, flag[mode == wasParked]}
	for _, set := range setsOf(l) {
		keys, args = append(keys, indexPrefix+set), append(args, set)
	}
	return keys, args
}

func (s *Store) index(ctx context.Context, l Letter, mode indexMode) error {
	if l.UserID == "" {
		l.UserID = userIn(l.Payload) // as it is read
	}
	keys, args := indexArgs(l, mode)
	if err := indexCmd.Run(ctx, s.rdb, keys, args...).Err(); err != nil {
		return fmt.Errorf("index dead letter %s: %w", l.ID, err)
	}
	return nil
}

// IndexDeath adds a letter that is about to be parked again to the index, with the reason
// that it has now.
func (s *Store) IndexDeath(ctx context.Context, l Letter) error { return s.index(ctx, l, hasDied) }

// IndexMissing adds to the index what it lacks of a letter that is arriving or is parked.
func (s *Store) IndexMissing(ctx context.Context, l Letter) error { return s.index(ctx, l, isThere) }

// unindexCmd removes letters from the index.
//
// KEYS[1…] -> sets
// --
// ARGV[1] -> ID
//
// Returns nothing.
var unindexCmd = redis.NewScript(`for _, key in ipairs(KEYS) do redis.call("ZREM", key, ARGV[1]) end`)

// Unindex removes a letter whose replay has succeeded from the index.
func (s *Store) Unindex(ctx context.Context, l Letter) error {
	if l.UserID == "" {
		l.UserID = userIn(l.Payload)
	}
	sets := append(setsOf(l)[1:], misdatedSet)
	at := slotOf(l)
	for _, at.reason = range slotReasons() {
		sets = append(sets, at.set())
	}
	for i := range sets {
		sets[i] = indexPrefix + sets[i]
	}
	if err := unindexCmd.Run(ctx, s.rdb, sets, l.ID).Err(); err != nil && err != redis.Nil { //nolint:errorlint // go-redis returns it as it is
		return fmt.Errorf("remove dead letter %s from the index: %w", l.ID, err)
	}
	return nil
}

// reasonWords are the reasons of all slots, for scripts that remove a letter from them.
func reasonWords() string {
	var words []string
	for _, r := range slotReasons() {
		words = append(words, string(r))
	}
	return strings.Join(words, " ")
}

// slots returns the slots of letters of some reasons and kinds; none stands for all.
func slots(reasons []tasks.Reason, kinds []tasks.Kind) (out []slot) {
	var ofReasons []tasks.Reason
	for _, r := range reasons {
		if !r.Known() {
			r = unknownReason
		}
		ofReasons = append(ofReasons, r)
	}
	var ofKinds []tasks.Kind
	for _, k := range kinds {
		if !k.Known() {
			k = KindUnknown
		}
		ofKinds = append(ofKinds, k)
	}
	if len(reasons) == 0 {
		ofReasons = slotReasons()
	}
	if len(kinds) == 0 {
		ofKinds = slotKinds()
	}
	slices.Sort(ofReasons)
	slices.Sort(ofKinds)
	for _, r := range slices.Compact(ofReasons) {
		for _, k := range slices.Compact(ofKinds) {
			out = append(out, slot{r, k})
		}
	}
	return out
}
