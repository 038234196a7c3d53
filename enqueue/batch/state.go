package batch

import (
	"fmt"

	"github.com/kooworker/kooworker/tasks"
)

// State is what the ledger knows of one index.
type State uint8

// The states, as they are written. Their names are those of the counters.
const (
	Absent State = iota
	Queued
	Succeeded
	AlreadyGone
	Superseded
	Dead
	Discarded
	Duplicate
	Rejected

	numStates = iota
)

var stateNames = [numStates]string{
	"absent", "queued", "succeeded", "already_gone", "superseded", "dead", "discarded", "duplicate", "rejected",
}

// String returns the state's name.
func (s State) String() string {
	if int(s) < numStates {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

func stateOf(o tasks.Outcome) (State, error) {
	for _, s := range []State{Succeeded, AlreadyGone, Superseded, Dead, Discarded} {
		if s.String() == string(o) {
			return s, nil
		}
	}
	return 0, fmt.Errorf("batch: %q is no outcome", o)
}

// stateAt reads a state: Redis counts the halves of a byte from its high end.
func stateAt(states string, i int64) State {
	if i/2 >= int64(len(states)) {
		return Absent
	}
	b := states[i/2]
	if i%2 == 0 {
		return State(b >> 4)
	}
	return State(b & 0x0f)
}

// ledgerLua begins the scripts that change states. Their first five KEYS are
// meta, states, receipts, revised and slots.
const ledgerLua = `
local names = {"queued", "succeeded", "already_gone", "superseded", "dead", "discarded", "duplicate", "rejected"}
local delta, added = {}, 0

local function get(index)
	return redis.call("BITFIELD", KEYS[2], "GET", "u4", "#" .. index)[1]
end

-- Gives an index its state, and takes note for the counters.
local function put(index, old, new)
	redis.call("BITFIELD", KEYS[2], "SET", "u4", "#" .. index, new)
	if old == 0 then
		added = added + 1
	else
		delta[old] = (delta[old] or 0) - 1
	end
	delta[new] = (delta[new] or 0) + 1
end

-- Brings the counters up to date. A key that came after the batch was complete
-- must not outlive the others.
local function balance()
	for state, n in pairs(delta) do
		if n ~= 0 then
			redis.call("HINCRBY", KEYS[1], names[state], n)
		end
	end
	if added ~= 0 then
		redis.call("HINCRBY", KEYS[1], "total", added)
	end
	local m = redis.call("HMGET", KEYS[1], "completed_at", "keep")
	if m[1] then
		for i = 1, 5 do
			redis.call("PEXPIREAT", KEYS[i], m[1] + m[2])
		end
	end
end

-- Notes that the batch is complete, if it is, and returns 1 the first time.
local function complete()
	local m = redis.call("HMGET", KEYS[1], "sealed", "queued", "completed_at", "keep")
	if not m[1] or tonumber(m[2]) > 0 or m[3] then
		return 0
	end
	local time = redis.call("TIME")
	local now = time[1] * 1000 + math.floor(time[2] / 1000)
	redis.call("HSET", KEYS[1], "completed_at", now)
	for _, key in ipairs(KEYS) do
		redis.call("PEXPIREAT", key, now + m[4])
	end
	return 1
end
`
