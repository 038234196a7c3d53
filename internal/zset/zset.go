// Package zset holds the Lua for scripts that read a sorted set page by page while
// others change it.
//
// A page begins after the last member of the page before it, by score and member,
// whether or not that member is still in the set. So a member that stays in the
// set is read once, whatever others add or remove in the meantime.
//
// enqueue/locks and worker/deadletter use it. It imports nothing.
package zset

// RankLua defines rank(key, score, member): how many members of a sorted set
// come before that score and member, in Redis' order. It writes nothing.
//
// The members from there on begin at index rank(key, score, member). Those after
// the member begin at rank(key, score, member .. "\0"), since nothing can come
// between the two. Those before it, the last one first, begin at index
// ZCARD - rank(key, score, member) of ZREVRANGE.
//
// It searches the members of that score by bisection. It compares bytes, as Redis
// does; Lua's own comparison follows the server's locale.
const RankLua = `
local function before(a, b)
	for i = 1, math.min(#a, #b) do
		local x, y = a:byte(i), b:byte(i)
		if x ~= y then
			return x < y
		end
	end
	return #a < #b
end

local function rank(key, score, member)
	local low = redis.call("ZCOUNT", key, "-inf", "(" .. score)
	local high = redis.call("ZCOUNT", key, "-inf", score)
	while low < high do
		local middle = math.floor((low + high) / 2)
		if before(redis.call("ZRANGE", key, middle, middle)[1], member) then
			low = middle + 1
		else
			high = middle
		end
	end
	return low
end
`
