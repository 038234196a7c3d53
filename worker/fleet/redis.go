package fleet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

// The braces make a Redis cluster keep all keys in one place.
const (
	workersKey   = "{kooworker:fleet}:workers"
	successesKey = "{kooworker:fleet}:successes"
	failuresKey  = "{kooworker:fleet}:failures:" // and the kind of calls
)

// keys are the KEYS of heartbeatCmd.
func keys() []string {
	out := []string{workersKey, successesKey}
	for _, kind := range gate.Kinds() {
		out = append(out, failuresKey+string(kind))
	}
	return out
}

const (
	// maxFailures bounds the failures that are kept of each kind of calls. A gate needs
	// fewer to notice an outage.
	maxFailures = 200
	// newsTTL is how long the news outlast the last worker.
	newsTTL = 30 * 24 * time.Hour
)

// heartbeatCmd records that a worker is alive, adds its news, and returns what the
// fleet knows. All of it is atomic, and uses Redis' own clock. The news come with
// their ages, since the workers' clocks differ.
//
// A success removes the failures of its kind before it. Failures have no other end:
// an outage on a quiet fleet may last for days between two calls.
//
// KEYS[1] -> {kooworker:fleet}:workers, a sorted set: worker by its last heartbeat in ms
// KEYS[2] -> {kooworker:fleet}:successes, a hash: the latest success of each kind of
// calls, and the latest task of it that KooDrive refused, in JSON
// KEYS[3…] -> {kooworker:fleet}:failures:<kind>, a sorted set: class and user by when
// the call failed, in ms
// --
// ARGV[1] -> the worker's id
// ARGV[2] -> how long a worker counts as alive after a heartbeat, in ms
// ARGV[3] -> the news in JSON
// ARGV[4] -> how long news are kept, in ms
// ARGV[5] -> how many failures are kept of each kind
//
// Returns the number of live workers, this one included; the present time in ms; the values of the hash; and for each kind its
// failures with their times.
var heartbeatCmd = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZADD", KEYS[1], now, ARGV[1])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", now - ARGV[2])
redis.call("PEXPIRE", KEYS[1], ARGV[2])
local news = cjson.decode(ARGV[3])
for _, f in ipairs(news.failures) do
  local key = KEYS[2 + f.kind]
  redis.call("ZADD", key, "GT", now - f.age, f.member)
  redis.call("ZREMRANGEBYRANK", key, 0, -1 - ARGV[5])
  redis.call("PEXPIRE", key, ARGV[4])
end
for _, s in ipairs(news.successes) do
  local old = redis.call("HGET", KEYS[2], s.field)
  s.began, s.ended = now - s.began, now - s.ended
  if not old or cjson.decode(old).ended < s.ended then
    redis.call("HSET", KEYS[2], s.field, cjson.encode(s))
    redis.call("PEXPIRE", KEYS[2], ARGV[4])
    if s.success then redis.call("ZREMRANGEBYSCORE", KEYS[2 + s.kind], "-inf", "(" .. s.began) end
  end
end
local out = {redis.call("ZCARD", KEYS[1]), now, redis.call("HVALS", KEYS[2])}
for i = 3, #KEYS do out[i + 1] = redis.call("ZRANGE", KEYS[i], 0, -1, "WITHSCORES") end
return out
`)

// news is gate.News on the wire. Times are ages in ms, counted back from now. Kinds
// are counted from 1.
type news struct {
	Failures  []failure `json:"failures"`
	Successes []success `json:"successes"`
}

type failure struct {
	Kind   int    `json:"kind"`
	Member string `json:"member"` // class and user
	Age    int64  `json:"age"`
}

// success is also what the hash holds. There began and ended are times in ms.
type success struct {
	Kind    int          `json:"kind"`
	Field   string       `json:"field"`
	Success bool         `json:"success"` // false: KooDrive refused a task
	Reason  tasks.Reason `json:"reason"`
	User    string       `json:"user"`
	Began   int64        `json:"began"`
	Ended   int64        `json:"ended"`
}

// heartbeatArgs returns the ARGV of heartbeatCmd.
func heartbeatArgs(now time.Time, id string, told gate.News) ([]any, error) {
	wire := news{Failures: []failure{}, Successes: []success{}} // an empty list, and not null
	age := func(at time.Time) int64 { return max(now.Sub(at).Milliseconds(), 0) }
	for _, f := range told.Failures {
		wire.Failures = append(wire.Failures, failure{Kind: kindNumber(f.Kind), Member: string(f.Class) + " " + f.User, Age: age(f.At)})
	}
	for _, s := range told.Successes {
		isSuccess := s.Reason == tasks.OK || s.Reason == tasks.Gone
		wire.Successes = append(wire.Successes, success{
			Kind: kindNumber(s.Kind), Field: fmt.Sprintf("%s:%t", s.Kind, isSuccess), Success: isSuccess,
			Reason: s.Reason, User: s.User, Began: age(s.Began), Ended: age(s.Ended),
		})
	}
	text, err := json.Marshal(wire)
	return []any{id, heartbeatTTL.Milliseconds(), text, newsTTL.Milliseconds(), maxFailures}, err
}

func kindNumber(k gate.Kind) int { return slices.Index(gate.Kinds(), k) + 1 }

// state is the reply of heartbeatCmd.
type state struct {
	live int
	news gate.News
}

// parse reads the reply of heartbeatCmd. sent is when the command was sent: with it
// every time becomes a little too early, and none too late.
func parse(sent time.Time, reply []any) (state, error) {
	kinds := gate.Kinds()
	if len(reply) != 3+len(kinds) {
		return state{}, fmt.Errorf("the reply has %d parts; want %d", len(reply), 3+len(kinds))
	}
	live, _ := reply[0].(int64)
	now, _ := reply[1].(int64)
	out := state{live: int(live)}
	at := func(ms int64) time.Time { return sent.Add(-time.Duration(now-ms) * time.Millisecond) }
	values, _ := reply[2].([]any)
	for _, v := range values {
		text, _ := v.(string)
		var s success
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Kind < 1 || s.Kind > len(kinds) {
			continue // a newer worker wrote it
		}
		out.news.Successes = append(out.news.Successes, gate.Success{
			Kind: kinds[s.Kind-1], Reason: s.Reason, User: s.User, Began: at(s.Began), Ended: at(s.Ended),
		})
	}
	for i, kind := range kinds {
		pairs, _ := reply[3+i].([]any)
		for j := 0; j+1 < len(pairs); j += 2 {
			member, _ := pairs[j].(string)
			score, _ := pairs[j+1].(string)
			ms, err := strconv.ParseFloat(score, 64)
			class, user, ok := strings.Cut(member, " ")
			if err == nil && ok {
				out.news.Failures = append(out.news.Failures, gate.Failure{Kind: kind, Class: tasks.Reason(class), User: user, At: at(int64(ms))})
			}
		}
	}
	return out, nil
}
