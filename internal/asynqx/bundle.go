package asynqx

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// mostBundled bounds the calls in a Bundle: Redis runs a hundred in less than a
// millisecond, and does nothing else meanwhile.
const mostBundled = 100

// Bundle is many calls of one of asynq's scripts, for tasks of one queue, that Redis
// takes as one script. A call of its own for each task would cost Redis an eighth more.
// If a call fails, those after it are not run.
type Bundle struct {
	sha   string
	calls []int // the indexes of the scripts that were bundled
	keys  []string
	args  []any
	reply *redis.Cmd
}

// bundleOf wraps one of asynq's scripts in one that runs it for each call: as the body
// of a function whose parameters have the names of Redis' globals. The first two
// arguments are how many keys and arguments a call has.
func bundleOf(source string) string {
	return `local function one(KEYS, ARGV)
` + source + `
end
local nkeys, nargs = tonumber(ARGV[1]), tonumber(ARGV[2])
local keys, args, replies = {}, {}, {}
for i = 1, #KEYS / nkeys do
	for j = 1, nkeys do keys[j] = KEYS[(i - 1) * nkeys + j] end
	for j = 1, nargs do args[j] = ARGV[2 + (i - 1) * nargs + j] end
	replies[i] = one(keys, args)
end
return replies`
}

// Bundle bundles captured scripts. Those of a queue keep their order.
func (c *ScriptCapture) Bundle(scripts []Script) []*Bundle {
	type kind struct{ sha, slot string }
	var all []*Bundle
	filling := make(map[kind]*Bundle)
	for i, s := range scripts {
		k := kind{s.sha, hashTag(s.keys[0])}
		b := filling[k]
		if b == nil || len(b.calls) == mostBundled {
			b = &Bundle{sha: c.rec.bundle(s.sha), args: []any{len(s.keys), len(s.args)}}
			filling[k] = b
			all = append(all, b)
		}
		b.calls = append(b.calls, i)
		b.keys = append(b.keys, s.keys...)
		b.args = append(b.args, s.args...)
	}
	return all
}

// EvalSha adds the bundle to a pipeline.
func (b *Bundle) EvalSha(ctx context.Context, p redis.Pipeliner) {
	b.reply = p.EvalSha(ctx, b.sha, b.keys, b.args...)
}

// Each calls f for each script with what it returned. On an error some of the scripts
// may have run, and f was not called. If Redis does not know the script, IsNoScript
// recognizes the error.
func (b *Bundle) Each(f func(script int, reply int64)) error {
	replies, err := b.reply.Int64Slice()
	if err != nil {
		return err
	}
	if len(replies) != len(b.calls) {
		return fmt.Errorf("asynq's script was called %d times, and answered %d times", len(b.calls), len(replies))
	}
	for i, call := range b.calls {
		f(call, replies[i])
	}
	return nil
}

// bundle returns the SHA-1 of the script that bundles calls of another.
func (r *recorder) bundle(sha string) string {
	if bundled, known := r.bundles[sha]; known {
		return bundled
	}
	source := bundleOf(r.sources[sha])
	bundled := sha1Of(source)
	r.bundles[sha], r.sources[bundled] = bundled, source
	return bundled
}

// hashTag returns the part of a key between the first braces, which decides on the
// key's slot in a cluster, and which names the queue in asynq's keys.
func hashTag(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, _ := strings.Cut(rest, "}")
	return tag
}
