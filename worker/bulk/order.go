package bulk

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kooworker/kooworker/worker/deadletter"
)

// Kind is what a job does with letters.
type Kind string

// Kinds of jobs.
const (
	Replay  Kind = "replay"
	Discard Kind = "discard"
)

// Order is what somebody orders.
type Order struct {
	Kind Kind `json:"kind"`
	// Filter selects the letters. An empty one needs All.
	Filter deadletter.Filter `json:"filter"`
	All    bool              `json:"all,omitempty"`
	// Rate is the greatest number of letters a second; 0 is no limit.
	Rate float64 `json:"rate,omitempty"`
	// Canary is the number of letters that are replayed first; 0 is no canary. MinSuccess is the
	// share of them that must succeed, from 0 to 1, within CanaryTimeout. Default
	// deadletter.DefaultCanaryTimeout.
	Canary        int           `json:"canary,omitempty"`
	MinSuccess    float64       `json:"min_success,omitempty"`
	CanaryTimeout time.Duration `json:"canary_timeout,omitempty"`
	// By is who orders it, and Reason says why. Both are required.
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Bounds of an order.
const (
	MaxReason = 500  // characters
	MaxBy     = 200  // characters
	MaxIDs    = 1000 // letters that a filter names
	MaxCanary = 1000 // letters

	minRate = 0.01 // letters a second

	maxText = 512 // bytes of a user's or a batch's ID
)

// InvalidError means that an order cannot be carried out as it is.
type InvalidError struct{ Field, Problem string }

// Error implements error.
func (e *InvalidError) Error() string { return e.Field + ": " + e.Problem }

// validate checks an order, and returns it without spaces around its texts.
func (o Order) validate() (Order, error) {
	o.By, o.Reason = strings.TrimSpace(o.By), strings.TrimSpace(o.Reason)
	invalid := func(field, format string, args ...any) (Order, error) {
		return o, &InvalidError{field, fmt.Sprintf(format, args...)}
	}
	isText := func(s string, most int) bool {
		return s != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= most
	}
	f := o.Filter
	switch {
	case o.Kind != Replay && o.Kind != Discard:
		return invalid("kind", "%.40q; want %s or %s", o.Kind, Replay, Discard)
	case f.Empty() && !o.All:
		return invalid("filter", "it selects all letters; want a filter, or all said explicitly")
	case f.Limit < 0:
		return invalid("filter", "the limit is %d; want a number of letters, or 0 for no limit", f.Limit)
	case len(f.IDs) > MaxIDs:
		return invalid("filter", "it names %d letters; want at most %d", len(f.IDs), MaxIDs)
	case len(f.UserID) > maxText || len(f.Batch) > maxText:
		return invalid("filter", "a user or batch of more than %d bytes; want the ID of one", maxText)
	case !(o.Rate >= 0) || math.IsInf(o.Rate, 0) || o.Rate > 0 && o.Rate < minRate:
		return invalid("rate", "%g; want a number of letters a second, at least %g, or 0 for no limit", o.Rate, minRate)
	case o.Canary < 0 || o.Canary > MaxCanary:
		return invalid("canary", "%d; want 0 to %d letters", o.Canary, MaxCanary)
	case o.Canary > 0 && o.Kind == Discard:
		return invalid("canary", "a discard has none: it has no outcome to wait for")
	case !(o.MinSuccess >= 0 && o.MinSuccess <= 1):
		return invalid("min_success", "%g; want a share from 0 to 1", o.MinSuccess)
	case o.CanaryTimeout < 0 || o.CanaryTimeout > time.Hour:
		return invalid("canary_timeout", "%s; want up to 1h, or 0 for %s", o.CanaryTimeout, deadletter.DefaultCanaryTimeout)
	case !isText(o.By, MaxBy):
		return invalid("by", "want who orders it, in at most %d characters", MaxBy)
	case !isText(o.Reason, MaxReason):
		return invalid("reason", "want a text that says why, of at most %d characters", MaxReason)
	}
	return o, nil
}

// State is how far a job is.
type State string

// States of jobs.
const (
	Waiting State = "waiting" // no Runner has taken it yet
	Canary  State = "canary"  // the canary is sent, or its outcomes are waited for
	Running State = "running"
	Done    State = "done"
	Failed  State = "failed" // Job.Error says why
	Stopped State = "stopped"
)

// IsOpen reports whether the job will go on.
func (s State) IsOpen() bool { return s == Waiting || s == Canary || s == Running }

// Job is an order, and what became of it.
type Job struct {
	ID string `json:"id"`
	Order

	State     State     `json:"state"`
	OrderedAt time.Time `json:"ordered_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	// Entries is how many entries of the index there were to look at when the job was
	// ordered, and Looked is at how many it has looked.
	Entries int64 `json:"entries"`
	Looked  int64 `json:"looked"`
	// Matched letters are Done, that is replayed or discarded, or Skipped: arriving, or changed by
	// somebody else meanwhile.
	Matched int64 `json:"matched"`
	Done    int64 `json:"done"`
	Skipped int64 `json:"skipped"`
	// CanaryReplayed and CanarySucceeded are the result of the canary.
	CanaryReplayed  int64 `json:"canary_replayed,omitempty"`
	CanarySucceeded int64 `json:"canary_succeeded,omitempty"`
	// Error says why the job has failed, or what it waits for, and Hint what to do about it.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// StoppedBy and StopReason say who has stopped it, or wants to, and why.
	StoppedBy  string `json:"stopped_by,omitempty"`
	StopReason string `json:"stop_reason,omitempty"`
}

// ErrNotFound is returned by Get and Stop if there is no such job, or not any more.
var ErrNotFound = errors.New("there is no such job; a job is forgotten 30 days after its end, and when 200 others have ended after it")

// ErrEnded is returned by Stop for a job that has ended.
var ErrEnded = errors.New("the job has ended already")

// ErrTooMany is returned by Order if many jobs are open.
var ErrTooMany = fmt.Errorf("%d jobs are open; wait until one of them ends, or stop one", maxOpen)
