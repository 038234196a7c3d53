package batch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// NoReceiptsError means that a batch was made without receipts.
type NoReceiptsError struct{ ID string }

// Error implements error.
func (e *NoReceiptsError) Error() string {
	return fmt.Sprintf("batch %s was made without receipts; its counts are all there is", e.ID)
}

// ReceiptOptions say which receipts are wanted.
type ReceiptOptions struct {
	// History: all that were written, where a replayed dead letter has several.
	// Otherwise only the last of each task.
	History bool
	// Follow: go on with what is written meanwhile, until the batch is done. What
	// a replay revises then comes again.
	Follow bool
}

const (
	receiptPage = 1000
	followEvery = 200 * time.Millisecond
)

// Receipts yields the receipts of a batch in the order in which they were
// written, and ends with an error if Redis fails or there are none to be had.
// A receipt that is superseded while they are read may come, and the new one
// with it.
func (s *Store) Receipts(ctx context.Context, id string, o ReceiptOptions) iter.Seq2[tasks.Receipt, error] {
	return func(yield func(tasks.Receipt, error) bool) {
		if err := s.hasReceipts(ctx, id); err != nil {
			yield(tasks.Receipt{}, err)
			return
		}
		from := "-"
		for {
			page, last, done, err := s.receiptPage(ctx, id, from, o)
			if err != nil {
				yield(tasks.Receipt{}, err)
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
			if last != "" {
				from = "(" + last
				continue
			}
			if !o.Follow || done {
				return
			}
			pause := time.NewTimer(followEvery)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				yield(tasks.Receipt{}, ctx.Err())
				return
			}
		}
	}
}

func (s *Store) hasReceipts(ctx context.Context, id string) error {
	if tasks.ValidateBatchID(id) != nil {
		return &NotFoundError{ID: id}
	}
	with, err := s.rdb.HGet(ctx, keysOf(id).meta, "with_receipts").Result()
	switch {
	case errors.Is(err, redis.Nil):
		return &NotFoundError{ID: id}
	case err != nil:
		return fmt.Errorf("batch %s: receipts: %w", id, err)
	case with != "1":
		return &NoReceiptsError{ID: id}
	}
	return nil
}

// receiptPage reads one page; last is the ID of its last entry, or "" at the
// end.
//
// Whether the batch is done is read before: after what was there then no other
// outcome comes. That it is still there is read after: what has expired is no
// end. It is no transaction, which a Redis that is full would refuse.
func (s *Store) receiptPage(ctx context.Context, id, from string, o ReceiptOptions) (page []tasks.Receipt, last string, done bool, err error) {
	k := keysOf(id)
	var meta *redis.SliceCmd
	var stream *redis.XMessageSliceCmd
	var there *redis.IntCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		meta = p.HMGet(ctx, k.meta, balanceFields...)
		stream = p.XRangeN(ctx, k.receipts, from, "+", receiptPage)
		there = p.Exists(ctx, k.meta)
		return nil
	})
	if err != nil {
		return nil, "", false, fmt.Errorf("batch %s: receipts: %w", id, err)
	}
	b, err := readBalance(id, meta.Val())
	if err != nil {
		return nil, "", false, err
	}
	if there.Val() == 0 {
		return nil, "", false, &NotFoundError{ID: id}
	}
	entries := stream.Val()
	if len(entries) == 0 {
		return nil, "", b.Done, nil
	}
	indexes := make([]string, len(entries))
	page = make([]tasks.Receipt, len(entries))
	for i, e := range entries {
		if page[i], err = readReceipt(id, e); err != nil {
			return nil, "", false, fmt.Errorf("batch %s: receipt %s: %w", id, e.ID, err)
		}
		indexes[i] = strconv.FormatInt(page[i].Index, 10)
	}
	last = entries[len(entries)-1].ID
	if o.History || o.Follow {
		return page, last, b.Done, nil
	}
	latest, err := s.rdb.HMGet(ctx, k.revised, indexes...).Result()
	if err != nil {
		return nil, "", false, fmt.Errorf("batch %s: receipts: %w", id, err)
	}
	kept := page[:0]
	for i, r := range page {
		if l, revised := latest[i].(string); !revised || l == entries[i].ID {
			kept = append(kept, r)
		}
	}
	return kept, last, b.Done, nil
}

func readReceipt(id string, e redis.XMessage) (tasks.Receipt, error) {
	text := func(name string) string { s, _ := e.Values[name].(string); return s }
	r := tasks.Receipt{
		BatchRef: tasks.BatchRef{Batch: id}, Kind: tasks.Kind(text("k")), UserID: text("u"), Target: text("t"),
		Outcome: tasks.Outcome(text("o")), Reason: tasks.Reason(text("r")),
	}
	ms, _, _ := strings.Cut(e.ID, "-")
	at, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return r, fmt.Errorf("its ID names no time: %w", err)
	}
	r.At = time.UnixMilli(at).UTC()
	if r.Index, err = strconv.ParseInt(text("i"), 10, 64); err != nil {
		return r, fmt.Errorf("index: %w", err)
	}
	if r.Attempts, err = strconv.Atoi(text("a")); err != nil {
		return r, fmt.Errorf("attempts: %w", err)
	}
	if d := text("d"); d != "" {
		r.Device = &tasks.Device{}
		if err := json.Unmarshal([]byte(d), r.Device); err != nil {
			return r, fmt.Errorf("device: %w", err)
		}
	}
	return r, nil
}
