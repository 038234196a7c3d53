package batch

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Hold says that nothing of a batch runs for the time being.
type Hold struct {
	// Batch is the batch's ID.
	Batch string `json:"-"`
	// Until is when the hold ends by itself, to the second; zero: when it is released.
	Until time.Time `json:"until,omitzero"`
	// Reason and By are as in a Cancellation.
	Reason string `json:"reason"`
	By     string `json:"by"`
	// Ended: somebody releases the batch just now. Workers run its tasks.
	Ended bool `json:"-"`
}

// farAhead is when tasks are due whose hold has no end.
var farAhead = time.Date(2200, time.January, 1, 0, 0, 0, 0, time.UTC)

// DueAt is when the tasks of the batch are due while they are held.
func (h Hold) DueAt() time.Time {
	if h.Until.IsZero() {
		return farAhead
	}
	return h.Until
}

// Hold records that nothing of a batch runs. Workers learn it within a second or two, and put a
// task of the batch back until the hold ends. Holding a batch again replaces the hold.
//
// The tasks that wait stay where they are. Package waiting puts them off, so that workers need
// not take each of them.
func (s *Store) Hold(ctx context.Context, h Hold) error {
	if _, err := s.Show(ctx, h.Batch); err != nil {
		return err
	}
	until, ended := "", ""
	if !h.Until.IsZero() {
		until = strconv.FormatInt(h.Until.Unix(), 10)
	}
	if h.Ended {
		ended = "ended"
	}
	if err := s.stop(ctx, holdField(h.Batch), h.By, h.Reason, until, ended); err != nil {
		return fmt.Errorf("batch %s: hold: %w", h.Batch, err)
	}
	return nil
}

// Release records that a batch is no longer held. Workers learn it within a second or two. What they
// and package waiting have put off is still put off then.
func (s *Store) Release(ctx context.Context, id string) error {
	if err := s.unstop(ctx, holdField(id)); err != nil {
		return fmt.Errorf("batch %s: release: %w", id, err)
	}
	return nil
}

// HoldOf returns the hold of a batch, if it is held.
func (s *Store) HoldOf(ctx context.Context, id string) (h Hold, ok bool, err error) {
	all, err := s.Stops(ctx, nil)
	if err != nil {
		return h, false, err
	}
	h, ok = all.held[id]
	return h, ok, nil
}

func holdField(id string) string { return holdWord + " " + id }
