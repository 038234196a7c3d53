package deadletter

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Canary is a small replay that goes ahead of a large one.
type Canary struct {
	// Size is the number of letters; 0 means no canary.
	Size int
	// MinSuccess is the share of them that must succeed, from 0 to 1, before the
	// others are replayed.
	MinSuccess float64
	// Timeout is how long to wait for their outcomes. A letter that has no outcome
	// by then did not succeed. Default 5 min.
	Timeout time.Duration
}

const defaultCanaryTimeout = 5 * time.Minute

func (c Canary) validate() error {
	if c.Size < 0 || c.MinSuccess < 0 || c.MinSuccess > 1 || c.MinSuccess != c.MinSuccess {
		return fmt.Errorf("canary of %d with a success of %g; want 0 or more letters, and a share from 0 to 1", c.Size, c.MinSuccess)
	}
	return nil
}

// CanaryError means that too few letters of the canary succeeded. The others
// were not touched.
type CanaryError struct {
	Replayed, Succeeded int
	MinSuccess          float64
}

// Error implements error.
func (e *CanaryError) Error() string {
	return fmt.Sprintf("the canary failed: %d of %d succeeded, want %.0f %%; the others stay dead",
		e.Succeeded, e.Replayed, e.MinSuccess*100)
}

// Hint says what to do about it.
func (e *CanaryError) Hint() string {
	return "find out why they died again (dead list --newer-than 10m), repair the cause, and replay"
}

// canaryRun is a canary under way.
type canaryRun struct {
	Canary
	sent []entry // as they were when they were replayed
}

// remaining returns how many letters of the canary are still to be replayed.
func (c *canaryRun) remaining() int { return max(c.Size-len(c.sent), 0) }

// awaitCanary waits for the outcomes. It returns a CanaryError if too few letters
// succeed in time.
func (s *Store) awaitCanary(ctx context.Context, c *canaryRun) error {
	limited, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, defaultCanaryTimeout))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	open, succeeded := c.sent, 0
	for limited.Err() == nil {
		var still []entry
		for _, e := range open {
			now, err := s.find(limited, e.id)
			switch {
			case err != nil && limited.Err() == nil:
				return err
			case err != nil: // out of time
				still = append(still, e)
			case now.message == "": // it was carried out, and is gone
				succeeded++
			case isParked(now.score) && now.message != e.message: // it died again
			default:
				still = append(still, e)
			}
		}
		if open = still; len(open) == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-limited.Done():
		}
	}
	if len(open) > 0 && ctx.Err() != nil {
		return ctx.Err()
	}
	if float64(succeeded) < c.MinSuccess*float64(len(c.sent)) {
		return &CanaryError{Replayed: len(c.sent), Succeeded: succeeded, MinSuccess: c.MinSuccess}
	}
	return nil
}
