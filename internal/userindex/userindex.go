// Package userindex finds the receipts of one user in a stream of many, without
// reading them all. Package enqueue/batch writes such streams, and enqueue/history has
// the same fingerprints beside its lists.
//
// # The index
//
// The index of a stream is one string beside it. For each receipt it has three bytes of
// a hash of the user, in the order of the stream. Receipts are grouped in blocks of
// 256, and a block begins with the ID of its first receipt, as text of 24 bytes. So a
// receipt costs 3.1 bytes. Whoever looks for a user reads the string, and of the
// stream only those blocks in which the three bytes occur. Of 16 million other users
// one has the same bytes, so the receipts themselves are always asked.
//
// Three zero bytes stand for a receipt that was forgotten; no user has these.
//
// # Receipts that the index does not know
//
// A version without the index may write to the same stream, and somebody may delete
// receipts by hand. Then the stream has another number of receipts than the index, and is
// read as a whole. So an index that is not complete costs time, and hides nothing.
package userindex

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Width is how many bytes a Fingerprint has.
const Width = 3

const (
	perBlock  = 256 // receipts
	head      = 24  // bytes of the ID at the beginning of a block
	blockSize = head + perBlock*Width
)

// UserField is the field of a receipt that has its user.
const UserField = "u"

// Lua defines two functions for the scripts that write receipts. indexUser(key, id,
// mark) notes that the receipt with this ID has just been added to the stream; mark
// is the user's Fingerprint. saveIndex(key) writes what was noted, and is called once.
//
// Redis keeps no string of more than 512 MB. Receipts beyond some 150 million of a
// stream are not in the index.
const Lua = `
local indexed, indexLength = {}, nil

local function indexUser(key, id, mark)
	indexLength = indexLength or redis.call("STRLEN", key)
	if indexLength > 500000000 then
		return
	end
	if indexLength % 792 == 0 then
		indexed[#indexed + 1] = string.format("%-24s", id)
		indexLength = indexLength + 24
	end
	indexed[#indexed + 1] = mark
	indexLength = indexLength + 3
end

local function saveIndex(key)
	if #indexed > 0 then
		redis.call("APPEND", key, table.concat(indexed))
	end
end
`

// ForgetLua defines a function for the scripts that remove receipts of one user.
// forgetReceipts(stream, index, mark, from) removes the receipts of which ARGV has the
// ID and the Offset, from this number on, and returns how many there were. If the
// fingerprint is not at the offset, the index is of no use any more, and is removed.
const ForgetLua = `
local function forgetReceipts(stream, index, mark, from)
	local n = 0
	for i = from, #ARGV, 2 do
		local offset = tonumber(ARGV[i + 1])
		if redis.call("XDEL", stream, ARGV[i]) == 1 then
			n = n + 1
			if offset >= 0 and redis.call("GETRANGE", index, offset, offset + 2) == mark then
				redis.call("SETRANGE", index, offset, "\0\0\0")
			else
				redis.call("DEL", index)
			end
		end
	end
	return n
end
`

// Fingerprint returns what the index holds of a user.
func Fingerprint(user string) string {
	sum := sha256.Sum256([]byte(user))
	if mark := string(sum[:Width]); mark != forgotten {
		return mark
	}
	return "\x00\x00\x01"
}

const forgotten = "\x00\x00\x00"

// Log is a stream of receipts and its index, by their keys. A cluster keeps both in one
// slot.
type Log struct{ Stream, Index string }

// Entry is a receipt of the user. Log says in which of the logs it is, and Offset where
// the fingerprint is in the index; it is -1 if the stream was read without it.
type Entry struct {
	redis.XMessage

	Log    int
	Offset int64
}

const (
	sizesTogether = 500              // logs whose sizes are read in one exchange
	part          = 1000 * blockSize // bytes of an index; Redis copies them in less than a millisecond
	page          = 1000             // receipts
)

// sizeLua reads the sizes of a log at one moment. It is a script, since a Redis whose
// memory is full refuses transactions.
const sizeLua = `return {redis.call("XLEN", KEYS[1]), redis.call("STRLEN", KEYS[2])}`

// Find yields the receipts of a user, log by log, each in the order in which they were
// written. It ends with an error if Redis fails.
func Find(ctx context.Context, rdb redis.UniversalClient, logs []Log, user string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		f := finder{ctx: ctx, rdb: rdb, user: user, mark: Fingerprint(user)}
		for from := 0; from < len(logs); from += sizesTogether {
			some := logs[from:min(from+sizesTogether, len(logs))]
			sizes, err := f.sizes(some)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for i, log := range some {
				f.log, f.number = log, from+i
				for e, err := range f.find(sizes[i].receipts, sizes[i].bytes) {
					if !yield(e, err) || err != nil {
						return
					}
				}
			}
		}
	}
}

// finder is one call of Find.
type finder struct {
	ctx        context.Context //nolint:containedctx // it lives as long as the call
	rdb        redis.UniversalClient
	user, mark string
	log        Log
	number     int // of the log
}

type size struct{ receipts, bytes int64 }

func (f *finder) sizes(logs []Log) ([]size, error) {
	cmds := make([]*redis.Cmd, len(logs))
	_, err := f.rdb.Pipelined(f.ctx, func(p redis.Pipeliner) error {
		for i, log := range logs {
			cmds[i] = p.Eval(f.ctx, sizeLua, []string{log.Stream, log.Index})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the sizes of the logs of receipts: %w", err)
	}
	out := make([]size, len(logs))
	for i, cmd := range cmds {
		n, err := cmd.Int64Slice()
		if err != nil || len(n) != 2 {
			return nil, fmt.Errorf("read the size of %s: %v, %w", logs[i].Stream, n, err)
		}
		out[i] = size{n[0], n[1]}
	}
	return out, nil
}

// find yields the receipts of the user in the log, which has so many receipts and so
// many bytes of index.
func (f *finder) find(receipts, bytes int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		blocks, known, err := f.readIndex(bytes)
		if err == nil && known != receipts {
			blocks, err = nil, f.readAll(yield)
		}
		for _, b := range blocks {
			if err == nil {
				err = f.readBlock(b, yield)
			}
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(Entry{}, err)
		}
	}
}

// errStop means that the caller wants no more entries.
var errStop = errors.New("no more entries are wanted")

// block is a part of the index in which the user's fingerprint occurs.
type block struct {
	first   string  // ID of its first receipt, which may be forgotten
	offsets []int64 // where its receipts are in the index, but for those that are forgotten
}

// readIndex returns the blocks in which the user's fingerprint occurs, and how many
// receipts the index knows that are not forgotten.
func (f *finder) readIndex(size int64) (blocks []block, known int64, err error) {
	for from := int64(0); from < size; from += part {
		text, err := f.rdb.GetRange(f.ctx, f.log.Index, from, min(from+part, size)-1).Result()
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", f.log.Index, err)
		}
		for at := 0; at < len(text); at += blockSize {
			b, matches := f.parseBlock(from+int64(at), text[at:min(at+blockSize, len(text))])
			if known += int64(len(b.offsets)); matches {
				blocks = append(blocks, b)
			}
		}
	}
	return blocks, known, nil
}

// parseBlock reads a block, which begins at an offset. matches says that the user's
// fingerprint occurs in it.
func (f *finder) parseBlock(offset int64, text string) (b block, matches bool) {
	if len(text) < head {
		return b, false
	}
	b.first = strings.TrimSpace(text[:head])
	for at := head; at+Width <= len(text); at += Width {
		switch text[at : at+Width] {
		case forgotten:
			continue
		case f.mark:
			matches = true
		}
		b.offsets = append(b.offsets, offset+int64(at))
	}
	return b, matches
}

// readBlock yields the receipts of the user in a block.
func (f *finder) readBlock(b block, yield func(Entry, error) bool) error {
	messages, err := f.rdb.XRangeN(f.ctx, f.log.Stream, b.first, "+", int64(len(b.offsets))).Result()
	if err != nil {
		return fmt.Errorf("read %s: %w", f.log.Stream, err)
	}
	for i, m := range messages {
		if err := f.yieldIfUsers(m, b.offsets[i], yield); err != nil {
			return err
		}
	}
	return nil
}

// readAll yields the receipts of the user without the index.
func (f *finder) readAll(yield func(Entry, error) bool) error {
	for from := "-"; ; {
		messages, err := f.rdb.XRangeN(f.ctx, f.log.Stream, from, "+", page).Result()
		if err != nil {
			return fmt.Errorf("read %s: %w", f.log.Stream, err)
		}
		for _, m := range messages {
			if err := f.yieldIfUsers(m, -1, yield); err != nil {
				return err
			}
		}
		if len(messages) < page {
			return nil
		}
		from = "(" + messages[len(messages)-1].ID
	}
}

func (f *finder) yieldIfUsers(m redis.XMessage, offset int64, yield func(Entry, error) bool) error {
	if m.Values[UserField] == f.user && !yield(Entry{m, f.number, offset}, nil) {
		return errStop
	}
	return nil
}
