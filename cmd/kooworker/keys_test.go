package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// keyRow is a row of the table in docs/redis-keys.md.
type keyRow struct {
	key, kind, atMost, expires string
	pattern                    *regexp.Regexp
}

// keyTable reads the table of docs/redis-keys.md.
func keyTable(t *testing.T) (rows []keyRow) {
	t.Helper()
	text, err := os.ReadFile("../../docs/redis-keys.md")
	if err != nil {
		t.Fatal(err)
	}
	placeholder := regexp.MustCompile(`<(\w+)>`)
	for line := range bytes.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(string(line)), "|"), "|")
		key := strings.Trim(strings.TrimSpace(cells[0]), "`")
		if len(cells) != 6 || key == "key" || strings.HasPrefix(key, "---") {
			continue
		}
		expr := placeholder.ReplaceAllString(regexp.QuoteMeta(key), `(?P<$1>.+)`)
		expr = strings.ReplaceAll(expr, `\{(?P<queue>.+)\}`, `\{(?P<queue>[^{}]+)\}`)
		expr = strings.ReplaceAll(expr, `(?P<batch>.+)`, `(?P<batch>[^{}]+)`)
		rows = append(rows, keyRow{
			key: key, kind: strings.TrimSpace(cells[1]), atMost: strings.TrimSpace(cells[3]), expires: strings.TrimSpace(cells[4]),
			pattern: regexp.MustCompile("^" + expr + "$"),
		})
	}
	if len(rows) < 40 {
		t.Fatalf("docs/redis-keys.md has %d rows; want the table of all keys", len(rows))
	}
	return rows
}

// maxTTL reads how long a key may be kept; 0 if it does not expire.
func (r keyRow) maxTTL(t *testing.T) time.Duration {
	t.Helper()
	if r.expires == "–" {
		return 0
	}
	units := map[string]time.Duration{"s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	words := strings.Fields(r.expires)
	n, err := strconv.Atoi(words[0])
	if err != nil || units[words[1]] == 0 {
		t.Fatalf("%s expires in %q; want a number and s, min, h or d", r.key, r.expires)
	}
	return time.Duration(n) * units[words[1]]
}

// keyCheck compares the keys of a Redis with the table.
type keyCheck struct {
	rdb    *redis.Client
	rows   []keyRow
	seen   map[string]int   // keys, by the row
	limits map[string]int64 // what the words in the column "at most" are in this test
}

// check compares all keys with the table, as they are now.
func (c *keyCheck) check(t *testing.T, when string) {
	t.Helper()
	const page = 1000
	total, failures := 0, 0
	for cursor, more := uint64(0), true; more; more = cursor != 0 {
		keys, next, err := c.rdb.Scan(t.Context(), cursor, "", page).Result()
		if err != nil {
			t.Fatal(err)
		}
		cursor, total = next, total+len(keys)
		for _, key := range c.look(t, keys) {
			if problem := c.problem(t, key); problem != "" {
				if failures++; failures <= 20 {
					t.Errorf("%s: %q %s", when, key.name, problem)
				}
			}
		}
	}
	if when != "at work" {
		t.Logf("%s: %d keys", when, total)
	}
}

// leftKey is a key as it was seen.
type leftKey struct {
	name, kind string
	size       int64
	ttl        time.Duration // not positive if it does not expire
	row        int           // of the table; -1 if there is none
	meta       map[string]string
}

// look reads what keys are: the size, the TTL and the batch's meta of each at one
// moment. It leaves out those that have gone meanwhile.
func (c *keyCheck) look(t *testing.T, names []string) (keys []leftKey) {
	t.Helper()
	ctx := t.Context()
	kinds := make([]*redis.StatusCmd, len(names))
	_, err := c.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			kinds[i] = p.Type(ctx, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if kind := kinds[i].Val(); kind != "none" {
			keys = append(keys, leftKey{name: name, kind: kind, row: slices.IndexFunc(c.rows, func(r keyRow) bool { return r.pattern.MatchString(name) })})
		}
	}
	sizes, ttls := make([]*redis.IntCmd, len(keys)), make([]*redis.DurationCmd, len(keys))
	metas := map[string]*redis.MapStringStringCmd{}
	_, err = c.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			sizes[i], ttls[i] = sizeOf(ctx, p, key.name, key.kind), p.PTTL(ctx, key.name)
			if id := c.batchOf(key); id != "" && metas[id] == nil {
				metas[id] = p.HGetAll(ctx, "kooworker:{batch:"+id+"}:meta")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range keys {
		keys[i].size, keys[i].ttl = sizes[i].Val(), ttls[i].Val()
		if meta := metas[c.batchOf(key)]; meta != nil {
			keys[i].meta = meta.Val()
		}
	}
	const gone = -2
	return slices.DeleteFunc(keys, func(k leftKey) bool { return k.ttl == gone })
}

// batchOf returns the batch that a key belongs to, or "".
func (c *keyCheck) batchOf(key leftKey) string {
	if key.row < 0 {
		return ""
	}
	pattern := c.rows[key.row].pattern
	if at := pattern.SubexpIndex("batch"); at > 0 {
		return pattern.FindStringSubmatch(key.name)[at]
	}
	return ""
}

func sizeOf(ctx context.Context, p redis.Pipeliner, name, kind string) *redis.IntCmd {
	switch kind {
	case "list":
		return p.LLen(ctx, name)
	case "set":
		return p.SCard(ctx, name)
	case "zset":
		return p.ZCard(ctx, name)
	case "hash":
		return p.HLen(ctx, name)
	case "stream":
		return p.XLen(ctx, name)
	default:
		return p.StrLen(ctx, name)
	}
}

// problem compares a key with its row. It is empty if they agree.
func (c *keyCheck) problem(t *testing.T, key leftKey) string {
	t.Helper()
	if key.row < 0 {
		return "is not in docs/redis-keys.md"
	}
	row := c.rows[key.row]
	c.seen[row.key]++
	// What outlives its batch expires: the batch was complete, or was deleted.
	complete := key.meta["completed_at"] != "" || key.meta["created_at"] == ""
	limit, most := c.limit(t, row.atMost, key.meta), row.maxTTL(t)
	if strings.HasSuffix(row.expires, "if at all") && key.ttl <= 0 {
		most = 0
	}
	switch expires := most > 0 && (complete || !strings.HasSuffix(row.expires, "once complete")); {
	case key.kind != row.kind:
		return fmt.Sprintf("is a %s; want a %s", key.kind, row.kind)
	case key.size > limit:
		return fmt.Sprintf("has %d entries or bytes; want at most %s, which is %d", key.size, row.atMost, limit)
	case expires && (key.ttl <= 0 || key.ttl > most):
		return fmt.Sprintf("expires in %s; want %s at most", key.ttl, most)
	case !expires && key.ttl > 0:
		return fmt.Sprintf("expires in %s; want it to stay", key.ttl)
	}
	return ""
}

// limit reads the column "at most": a number, a number of bytes, or a word.
func (c *keyCheck) limit(t *testing.T, atMost string, meta map[string]string) int64 {
	t.Helper()
	number := func(field string) int64 { n, _ := strconv.ParseInt(meta[field], 10, 64); return n }
	const perChunk, slot = 512, 16
	const perBlock, id, mark = 256, 24, 3 // see package userindex
	switch atMost {
	case "tasks of the batch":
		return number("total")
	case "outcomes":
		return number("total") + number("revisions")
	case "bytes of users":
		outcomes := number("total") + number("revisions")
		return (outcomes/perBlock+1)*id + mark*outcomes
	case "bytes of states":
		return number("next")/2 + 1
	case "bytes of slots":
		return (number("next")/perChunk + 1) * slot
	}
	if n, ok := c.limits[atMost]; ok {
		return n
	}
	text, unit, _ := strings.Cut(strings.ReplaceAll(atMost, ",", ""), " ")
	n, err := strconv.ParseInt(text, 10, 64)
	factor := map[string]int64{"": 1, "B": 1, "kB": 1000}[unit]
	if err != nil || factor == 0 {
		t.Fatalf("docs/redis-keys.md says at most %q; want a number, or one of %v", atMost, slices.Sorted(maps.Keys(c.limits)))
	}
	return n * factor
}

// unseen returns the keys of the table that no check has seen.
func (c *keyCheck) unseen() (out []string) {
	for _, row := range c.rows {
		if c.seen[row.key] == 0 {
			out = append(out, row.key)
		}
	}
	return out
}

// A key that contradicts the table is found.
func TestKeyCheck_Contradictions(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	ctx := t.Context()
	c := &keyCheck{rdb: rdb, rows: keyTable(t), seen: map[string]int{}, limits: map[string]int64{"queues": 2, "tasks": 10}}
	for name, write := range map[string]func(){
		"kooworker:unknown":                func() { rdb.Set(ctx, "kooworker:unknown", 1, 0) },
		"asynq:queues":                     func() { rdb.SAdd(ctx, "asynq:queues", 1, 2, 3) },
		"asynq:{unbind}:pending":           func() { rdb.Set(ctx, "asynq:{unbind}:pending", 1, 0) },
		"asynq:{unbind}:failed":            func() { rdb.Set(ctx, "asynq:{unbind}:failed", 1, time.Hour) },
		"asynq:{unbind}:failed:2026-01-01": func() { rdb.Set(ctx, "asynq:{unbind}:failed:2026-01-01", 1, 0) },
		"kooworker:barrier":                func() { rdb.Set(ctx, "kooworker:barrier", "", time.Hour) },
		"kooworker:{batch:complete}:receipts": func() {
			rdb.XAdd(ctx, &redis.XAddArgs{Stream: "kooworker:{batch:complete}:receipts", Values: []string{"i", "0"}})
		},
		"kooworker:{batch:without a meta}:states": func() { rdb.Set(ctx, "kooworker:{batch:without a meta}:states", "", 0) },
	} {
		rdb.HSet(ctx, "kooworker:{batch:complete}:meta", "created_at", 1, "completed_at", 1, "total", 5)
		write()
		keys := c.look(t, []string{name})
		if len(keys) == 1 && c.problem(t, keys[0]) != "" {
			continue
		}
		t.Errorf("%q contradicts docs/redis-keys.md, and is not found", name)
	}
	for name, write := range map[string]func(){
		"kooworker:{batch:complete}:receipts": func() { rdb.Expire(ctx, "kooworker:{batch:complete}:receipts", time.Hour) },
		"asynq:{unbind}:failed":               func() { rdb.Persist(ctx, "asynq:{unbind}:failed") },
	} {
		write()
		if keys := c.look(t, []string{name}); len(keys) != 1 || c.problem(t, keys[0]) != "" {
			t.Errorf("%q: %v; want no problem", name, keys)
		}
	}
}
