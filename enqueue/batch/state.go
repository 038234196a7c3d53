package batch

import (
	"fmt"

	"github.com/kooworker/kooworker/internal/userindex"
	"github.com/kooworker/kooworker/tasks"
)

// State is what the ledger knows about one index.
type State uint8

// The states. Redis stores these numbers, and the counters have the states' names.
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
	Cancelled

	numStates = iota
)

var stateNames = [numStates]string{
	"absent", "queued", "succeeded", "already_gone", "superseded", "dead", "discarded", "duplicate", "rejected", "cancelled",
}

// String returns the state's name.
func (s State) String() string {
	if int(s) < numStates {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

func stateOf(o tasks.Outcome) (State, error) {
	for _, s := range []State{Succeeded, AlreadyGone, Superseded, Cancelled, Dead, Discarded} {
		if s.String() == string(o) {
			return s, nil
		}
	}
	return 0, fmt.Errorf("batch: %q is not an outcome", o)
}

// ledgerLua begins every script that changes states. The first seven KEYS of such a
// script are meta, states, receipts, revised, slots, users and used.
//
// A script calls preload and setState, then save, and completeIfDone last.
const ledgerLua = userindex.Lua + `
local ABSENT, QUEUED, DEAD, DISCARDED, CANCELLED = 0, 1, 5, 6, 9
local stateNames = {"queued", "succeeded", "already_gone", "superseded", "dead", "discarded", "duplicate", "rejected", "cancelled"}

-- The changes of the counters by state, and the number of indexes that had no
-- state before.
local delta, added = {}, 0

-- bytes caches the bytes of the states by their offset, and changed lists the
-- offsets that must be written back. Redis has a command for bit fields, but it is
-- faster to read and write a whole chunk at once, and miniredis can do that too.
local bytes, changed = {}, {}

-- Reads the states of the indexes ARGV[at], ARGV[at + step] and so on in one call,
-- unless they are too far apart.
local function preload(at, step)
	local first, last = math.huge, 0
	for i = at, #ARGV, step do
		first, last = math.min(first, tonumber(ARGV[i])), math.max(last, tonumber(ARGV[i]))
	end
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

-- Returns the state of an index. Even indexes are in the upper half of their byte.
local function stateAt(index)
	local byte = byteAt(math.floor(index / 2))
	if index % 2 == 0 then
		return math.floor(byte / 16)
	end
	return byte % 16
end

-- Changes the state of an index in the cache. save writes it and the counters.
local function setState(index, old, new)
	local at = math.floor(index / 2)
	bytes[at] = byteAt(at) + (new - old) * (index % 2 == 0 and 16 or 1)
	changed[#changed + 1] = at
	if old == ABSENT then
		added = added + 1
	else
		delta[old] = (delta[old] or 0) - 1
	end
	delta[new] = (delta[new] or 0) + 1
end

-- Writes the changed bytes, adjacent ones in one call.
local function writeStates()
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

-- Writes the changed states and counters. If the batch is complete already, a key
-- that this script has created must expire with the others. Otherwise the time tells
-- when something last happened to the batch.
local function save()
	writeStates()
	for state, n in pairs(delta) do
		if n ~= 0 then
			redis.call("HINCRBY", KEYS[1], stateNames[state], n)
		end
	end
	if added ~= 0 then
		redis.call("HINCRBY", KEYS[1], "total", added)
	end
	local m = redis.call("HMGET", KEYS[1], "completed_at", "keep")
	if m[1] then
		for i = 1, 6 do
			redis.call("PEXPIREAT", KEYS[i], m[1] + m[2])
		end
	elseif #changed > 0 then
		local time = redis.call("TIME")
		redis.call("HSET", KEYS[1], "changed_at", time[1] * 1000 + math.floor(time[2] / 1000))
	end
end

-- Records that the batch is complete, if it is, and lets its keys expire. The name
-- stays reserved for so many ms longer than the other keys live. Returns 1 if the
-- batch has become complete by this, else 0.
local function completeIfDone(reserved)
	local m = redis.call("HMGET", KEYS[1], "sealed", "queued", "completed_at", "keep")
	if not m[1] or tonumber(m[2]) > 0 or m[3] then
		return 0
	end
	local time = redis.call("TIME")
	local now = time[1] * 1000 + math.floor(time[2] / 1000)
	redis.call("HSET", KEYS[1], "completed_at", now)
	for i = 1, 6 do
		redis.call("PEXPIREAT", KEYS[i], now + m[4])
	end
	redis.call("PEXPIREAT", KEYS[7], now + m[4] + reserved)
	return 1
end
`
