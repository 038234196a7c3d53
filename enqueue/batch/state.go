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

// ledgerLua begins the scripts that change states. Their first six KEYS are
// meta, states, receipts, revised, slots and used.
const ledgerLua = `
local names = {"queued", "succeeded", "already_gone", "superseded", "dead", "discarded", "duplicate", "rejected"}
local delta, added = {}, 0

-- The bytes of the states that were read, by their offset, and the offsets of
-- those that have changed. Redis has a command for bits; but to read and write a
-- chunk at once is faster, and miniredis can do it.
local bytes, changed = {}, {}

-- Reads the states from one index to another at once, unless they lie far apart.
local function read(first, last)
	local from, to = math.floor(first / 2), math.floor(last / 2)
	if to - from < 4096 then
		local text = redis.call("GETRANGE", KEYS[2], from, to)
		for at = from, to do
			bytes[at] = string.byte(text, at - from + 1) or 0
		end
	end
end

local function byteAt(at)
	if not bytes[at] then
		bytes[at] = string.byte(redis.call("GETRANGE", KEYS[2], at, at), 1) or 0
	end
	return bytes[at]
end

-- The state of an index: even ones are the upper half of their byte.
local function get(index)
	local byte = byteAt(math.floor(index / 2))
	if index % 2 == 0 then
		return math.floor(byte / 16)
	end
	return byte % 16
end

-- Gives an index its state, and takes note for the counters. balance writes it.
local function put(index, old, new)
	local at = math.floor(index / 2)
	bytes[at] = byteAt(at) + (new - old) * (index % 2 == 0 and 16 or 1)
	changed[#changed + 1] = at
	if old == 0 then
		added = added + 1
	else
		delta[old] = (delta[old] or 0) - 1
	end
	delta[new] = (delta[new] or 0) + 1
end

-- Writes the bytes that have changed, those that lie side by side at once.
local function write()
	table.sort(changed)
	local i = 1
	while i <= #changed do
		local first, last, text = changed[i], changed[i], {string.char(bytes[changed[i]])}
		while changed[i + 1] and changed[i + 1] <= last + 1 do
			i = i + 1
			if changed[i] > last then
				last = changed[i]
				text[#text + 1] = string.char(bytes[last])
			end
		end
		redis.call("SETRANGE", KEYS[2], first, table.concat(text))
		i = i + 1
	end
end

-- Writes the states, and brings the counters up to date. A key that came after
-- the batch was complete must not outlive the others.
local function balance()
	write()
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
	for i = 1, 5 do
		redis.call("PEXPIREAT", KEYS[i], now + m[4])
	end
	redis.call("PEXPIREAT", KEYS[6], now + m[4] + 90 * 24 * 3600 * 1000)
	return 1
end
`
