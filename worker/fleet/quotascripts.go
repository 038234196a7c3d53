package fleet

import (
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	quotaKey = "{kooworker:fleet}:quota"
	// quotaTTL is how long a quota is remembered after the last call.
	quotaTTL = 24 * time.Hour
)

// exchangeCmd adds up the calls of a worker, and hands out tokens at the present rates.
// It is atomic, and uses Redis' own clock. It does not learn: now and then it gives a
// worker an estimate with the counts, and that worker brings it up to date with
// commitCmd. gate.Book does the same in Go.
//
// KEYS[1] -> {kooworker:fleet}:quota, a hash. The fields of each quota, <kind> or all:
// the counts (:passed, :fresh, :refused, :lacked), what KooDrive has named (:told, :toldat), the estimate (:state, :version, :rate, :epoch, :istold, :phase) and when it
// was given to a worker (:handed). The field <bucket>:due of each bucket, <kind>, all or
// ceiling: when its next token is due, in us. The field ceiling:rate: the latest ceiling,
// for people
// --
// ARGV[1] -> the ceiling in calls a second, 0 for none
// ARGV[2] -> how far ahead tokens are granted, in us
// ARGV[3] -> how far back tokens are granted that nobody has asked for, in us
// ARGV[4] -> the time between two updates of an estimate, in ms
// ARGV[5] -> the same after the first refusal, in ms
// ARGV[6] -> how long the hash is kept, in ms
// ARGV[7…] -> for each kind of calls, and for all together: its name, the tokens that are
// wanted, the epoch of the counts, the counts (passed, fresh, refused), the ms to wait
// that a refused call was told, the limit that was told in JSON, or ""
//
// Returns the present time in us, the rate of all kinds together, and for each kind, and
// for all together: the tokens, the us until the first, the lowest of the rates, the
// quota's rate, its epoch, whether it was told, its phase, its estimate in JSON; and, if
// the worker is to bring it up to date, its version, the four counts, the time until when
// refused calls must wait, the limit that was told, when, and 0.
var exchangeCmd = redis.NewScript(`
local time = redis.call("TIME")
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local ceiling, horizon, oldest = tonumber(ARGV[1]), tonumber(ARGV[2]), us - ARGV[3]
local hash, changed = {}, {}
local all = redis.call("HGETALL", KEYS[1])
for i = 1, #all, 2 do hash[all[i]] = all[i + 1] end
local function number(field) return tonumber(hash[field] or "0") end
local function set(field, value) hash[field] = value; changed[field] = value end
local function add(field, n)
  if n ~= 0 then set(field, string.format("%.0f", number(field) + n)) end
end
local function setdue(bucket, at) set(bucket .. ":due", string.format("%.3f", at)) end

if ceiling ~= number("ceiling:rate") then set("ceiling:rate", ARGV[1]) end
local shared = number("all:rate")
local out = {string.format("%.0f", us), tostring(shared)}
local wanted = 0
for i = 7, #ARGV, 7 do wanted = wanted + tonumber(ARGV[i + 1]) end
for i = 7, #ARGV, 7 do
  local name, want, told = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 6]
  local rate, epoch = number(name .. ":rate"), number(name .. ":epoch")

  local n, first, slowest = 0, 0, 0
  if name ~= "all" then
    local start, due = oldest, {}
    for bucket, r in pairs({[name] = rate, all = shared, ceiling = ceiling}) do
      if r > 0 then
        if slowest == 0 or r < slowest then slowest = r end
        due[bucket] = number(bucket .. ":due")
        if due[bucket] == 0 or due[bucket] > us + 3600000000 then -- it begins empty; or the clock was set back
          due[bucket] = us + 1000000 / r
          setdue(bucket, due[bucket])
        end
        if due[bucket] > start then start = due[bucket] end
      end
    end
    if slowest > 0 then
      first = math.floor(start - us)
      local left = horizon - (start - us)
      if left > 0 and want > 0 then
        n = math.min(want, math.ceil((math.floor(left * slowest / 1000000) + 1) * want / wanted))
        for bucket, at in pairs(due) do
          local r = bucket == name and rate or bucket == "all" and shared or ceiling
          if r == slowest then at = start elseif at < oldest then at = oldest end
          setdue(bucket, at + n * 1000000 / r)
        end
      end
      if slowest == rate then
        add(name .. ":lacked", want - n)
      elseif slowest == shared then
        add("all:lacked", want - n)
      end
    end
    wanted = wanted - want
  end

  local fresh, refused = tonumber(ARGV[i + 2]) == epoch, tonumber(ARGV[i + 5])
  add(name .. ":passed", tonumber(ARGV[i + 3]))
  if fresh then
    add(name .. ":fresh", tonumber(ARGV[i + 4]))
    add(name .. ":refused", refused)
  end
  local age, isnew = now - number(name .. ":handed"), false
  if told ~= "" then
    isnew = told ~= hash[name .. ":told"]
    set(name .. ":told", told)
    set(name .. ":toldat", now)
  end
  local update = {}
  if isnew or age >= tonumber(ARGV[4]) or rate == 0 and fresh and refused > 0 and age >= tonumber(ARGV[5]) then
    set(name .. ":handed", now)
    update = {number(name .. ":version"), number(name .. ":passed"), number(name .. ":fresh"), number(name .. ":refused"),
      number(name .. ":lacked"), hash[name .. ":told"] or "", number(name .. ":toldat"), 0}
  end
  out[#out + 1] = {n, first, tostring(slowest), tostring(rate), epoch, number(name .. ":istold"), hash[name .. ":phase"] or "",
    #update > 0 and hash[name .. ":state"] or "", update}
end
local fields = {}
for field, value in pairs(changed) do
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end
if #fields > 0 then redis.call("HSET", KEYS[1], unpack(fields)) end
redis.call("PEXPIRE", KEYS[1], ARGV[6])
return out
`)

// commitCmd stores an estimate that was brought up to date, unless another worker was
// faster. It is atomic.
//
// KEYS[1] -> {kooworker:fleet}:quota
// --
// ARGV[1] -> the kind of calls, or all
// ARGV[2] -> the version that was brought up to date
// ARGV[3] -> the estimate in JSON
// ARGV[4] -> its rate, 0 for no limit
// ARGV[5] -> its epoch
// ARGV[6] -> 1 if KooDrive has named the limit, and the rate does not exceed it
// ARGV[7] -> its phase
// ARGV[8] -> the time in us from which tokens are granted anew, if those that were granted
// before are void; 0 for as before
//
// Returns 1 if it was stored.
var commitCmd = redis.NewScript(`
local key, name = KEYS[1], ARGV[1]
if tonumber(redis.call("HGET", key, name .. ":version") or "0") ~= tonumber(ARGV[2]) then return 0 end
redis.call("HSET", key, name .. ":version", ARGV[2] + 1, name .. ":state", ARGV[3], name .. ":rate", ARGV[4],
  name .. ":epoch", ARGV[5], name .. ":istold", ARGV[6], name .. ":phase", ARGV[7])
local due = tonumber(redis.call("HGET", key, name .. ":due") or "0")
if ARGV[8] ~= "0" then due = tonumber(ARGV[8]) end
redis.call("HSET", key, name .. ":due", string.format("%.3f", due))
return 1
`)
