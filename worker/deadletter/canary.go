package deadletter

import (
	"context"
	"fmt"
	"time"
)

// Canary is a small replay that goes ahead of a large one.
type Canary struct {
	// Size is the number of letters; 0 is no canary.
	Size int
	// MinSuccess is the share of them that must succeed, 0 to 1, before the
	// others follow.
	MinSuccess float64
	// Patience is how long to wait for their outcomes. Default 5 min. What has
	// none by then did not succeed.
	Patience time.Duration
}

const defaultPatience = 5 * time.Minute

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
	return fmt.Sprintf("the canary failed: %d of %d succeeded, and %.0f %% were wanted; the others stay dead",
		e.Succeeded, e.Replayed, e.MinSuccess*100)
}

// Hint says what to do about it.
func (e *CanaryError) Hint() string {
	return "look why they died again (dead list --newer-than 10m), mend that, and replay"
}

// canaryFlight is a canary under way.
type canaryFlight struct {
	Canary
	sent []entry // as they were when they were replayed
}

// takes returns how many of the next letters belong to the canary.
func (c *canaryFlight) takes(n int) int { return min(max(c.Size-len(c.sent), 0), n) }

// judge waits for the outcomes.
func (s *Store) judge(ctx context.Context, c *canaryFlight) error {
	patience := c.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	open, succeeded := c.sent, 0
	for {
		var still []entry
		for _, e := range open {
			now, err := s.look(limited, e.id)
			switch {
			case err != nil:
				if ctx.Err() == nil && limited.Err() != nil {
					still = append(still, e)
					continue
				}
				return err
			case now.message == "": // carried out, and gone
				succeeded++
			case parked(now.score) && now.message != e.message: // dead again
			default:
				still = append(still, e)
			}
		}
		if open = still; len(open) == 0 {
			break
		}
		select {
		case <-tick.C:
			continue
		case <-limited.Done():
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		break
	}
	if float64(succeeded) < c.MinSuccess*float64(len(c.sent)) {
		return &CanaryError{Replayed: len(c.sent), Succeeded: succeeded, MinSuccess: c.MinSuccess}
	}
	return nil
}
