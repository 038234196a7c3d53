package batch

import (
	"context"
	"fmt"
	"strconv"
	"strings"
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
	if err := s.stop(ctx, holdField(h.Batch), h.lines()...); err != nil {
		return fmt.Errorf("batch %s: hold: %w", h.Batch, err)
	}
	return nil
}

// lines are what stop writes of a hold.
func (h Hold) lines() []string {
	until, ended := "", ""
	if !h.Until.IsZero() {
		until = strconv.FormatInt(h.Until.Unix(), 10)
	}
	if h.Ended {
		ended = "ended"
	}
	return []string{h.By, h.Reason, until, ended}
}

// HeldAgainError means that somebody has held a batch again while it was released.
type HeldAgainError struct{ ID string }

// Error implements error.
func (e *HeldAgainError) Error() string {
	return fmt.Sprintf("batch %s is held again: somebody has held it while it was released", e.ID)
}

// End records that a hold has ended, and returns it as it is then. Workers learn it within a
// second or two. What they and package waiting have put off is still put off.
func (s *Store) End(ctx context.Context, h Hold) (Hold, error) {
	ended := h
	ended.Ended = true
	return ended, s.change(ctx, h, strings.Join(ended.lines(), "\n"))
}

// ForgetHold forgets a hold that has ended. If somebody has held the batch again since, that
// hold stays, and the error is a *HeldAgainError.
func (s *Store) ForgetHold(ctx context.Context, h Hold) error { return s.change(ctx, h, "") }

// change replaces a hold, unless it is another one by now.
func (s *Store) change(ctx context.Context, h Hold, value string) error {
	done, err := stopCmd.Run(ctx, s.rdb, []string{stopsKey}, holdField(h.Batch), value, strings.Join(h.lines(), "\n")).Bool()
	if err == nil && !done {
		return &HeldAgainError{ID: h.Batch}
	}
	if err != nil {
		return fmt.Errorf("batch %s: release: %w", h.Batch, err)
	}
	return nil
}

// HoldOf returns the hold of a batch, if it is held.
func (s *Store) HoldOf(ctx context.Context, id string) (h Hold, ok bool, err error) {
	all, err := s.Stops(ctx, nil)
	if err != nil {
		return h, false, err
	}
	h, ok = all.HoldOf(id)
	return h, ok, nil
}

// HoldOf returns the hold of a batch, also one that has ended.
func (all *Stops) HoldOf(id string) (h Hold, ok bool) {
	h, ok = all.held[id]
	return h, ok
}

func holdField(id string) string { return holdWord + " " + id }
