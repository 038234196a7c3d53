package batch

import (
	"context"
	"encoding/json"
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
	return fmt.Sprintf("batch %s was made without receipts; it has only counts", e.ID)
}

// ReceiptOptions say which receipts are wanted.
type ReceiptOptions struct {
	// History: every receipt that was written. A replayed dead letter has several.
	// Without it only the last receipt of each task is wanted.
	History bool
	// Follow: wait for new receipts until the batch is done. A task whose outcome a
	// replay revises then occurs again.
	Follow bool
	// UserID: only the receipts of this user. Empty: those of all users.
	UserID string
}

const (
	receiptPage    = 1000 // receipts that are read in one exchange
	followInterval = 200 * time.Millisecond
)

// Receipts yields the receipts of a batch in the order in which they were
// written. It ends with an error if Redis fails, or if the batch does not exist or
// was made without receipts. If a receipt is replaced by a newer one during the
// reading, both may be yielded.
func (s *Store) Receipts(ctx context.Context, id string, o ReceiptOptions) iter.Seq2[tasks.Receipt, error] {
	return func(yield func(tasks.Receipt, error) bool) {
		from := "-"
		for {
			page, last, done, err := s.receiptPage(ctx, id, from, o)
			if err != nil {
				yield(tasks.Receipt{}, err)
				return
			}
			for _, r := range page {
				if wanted := o.UserID == "" || r.UserID == o.UserID; wanted && !yield(r, nil) {
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
			select {
			case <-time.After(followInterval):
			case <-ctx.Done():
				yield(tasks.Receipt{}, ctx.Err())
				return
			}
		}
	}
}

// receiptPage reads one page. last is the ID of its last entry, or "" at the end.
//
// It reads first whether the batch is done: if it was done before the page was
// read, no other outcome follows the page. It reads last whether the batch exists:
// if it has expired, this is not the end of its receipts. This is not a
// transaction, since a Redis whose memory is full refuses transactions.
func (s *Store) receiptPage(ctx context.Context, id, from string, o ReceiptOptions) (page []tasks.Receipt, last string, done bool, err error) {
	if tasks.ValidateBatchID(id) != nil {
		return nil, "", false, &NotFoundError{ID: id}
	}
	k := keysOf(id)
	var meta *redis.SliceCmd
	var stream *redis.XMessageSliceCmd
	var exists *redis.IntCmd
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		meta = p.HMGet(ctx, k.meta, metaFields...)
		stream = p.XRangeN(ctx, k.receipts, from, "+", receiptPage)
		exists = p.Exists(ctx, k.meta)
		return nil
	})
	if err != nil {
		return nil, "", false, fmt.Errorf("batch %s: receipts: %w", id, err)
	}
	stats, numbers, err := readMeta(id, meta.Val())
	switch {
	case err != nil:
		return nil, "", false, err
	case exists.Val() == 0:
		return nil, "", false, &NotFoundError{ID: id}
	case numbers["with_receipts"] == 0:
		return nil, "", false, &NoReceiptsError{ID: id}
	}
	entries := stream.Val()
	if len(entries) == 0 {
		return nil, "", stats.Done, nil
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
		return page, last, stats.Done, nil
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
	return kept, last, stats.Done, nil
}

// recordedAt returns the time in the ID of a receipt.
func recordedAt(id string) (time.Time, error) {
	ms, _, _ := strings.Cut(id, "-")
	at, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("its ID does not begin with a time: %w", err)
	}
	return time.UnixMilli(at).UTC(), nil
}

func readReceipt(id string, e redis.XMessage) (tasks.Receipt, error) {
	text := func(name string) string { s, _ := e.Values[name].(string); return s }
	r := tasks.Receipt{
		BatchRef: tasks.BatchRef{Batch: id}, Kind: tasks.Kind(text("k")), UserID: text("u"), Target: text("t"),
		Outcome: tasks.Outcome(text("o")), Reason: tasks.Reason(text("r")),
	}
	var err error
	if r.At, err = recordedAt(e.ID); err != nil {
		return r, err
	}
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
