package deadletter

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // Redis' scripts know no other
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
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

// DefaultCanaryTimeout is the default of Canary.Timeout.
const DefaultCanaryTimeout = 5 * time.Minute

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

	sent   map[string]string // by ID the SHA-1 of the message that was replayed
	judged bool
}

// remaining returns how many letters of the canary are still to be replayed.
func (c *canaryRun) remaining() int { return max(c.Size-len(c.sent), 0) }

// add notes letters that were replayed.
func (c *canaryRun) add(done []match) {
	for _, m := range done {
		c.sent[m.id] = sha1Of(m.message)
	}
}

func sha1Of(message string) string {
	sum := sha1.Sum([]byte(message)) //nolint:gosec // tells one message from the next; no secret
	return hex.EncodeToString(sum[:])
}

// judgeCanary waits for the outcomes if the whole canary was sent, once.
func (b *bulk) judgeCanary(ctx context.Context) error {
	if b.canary.Size == 0 || b.canary.judged || b.canary.remaining() > 0 || b.DryRun {
		return nil
	}
	succeeded, err := b.awaitCanary(ctx, b.canary)
	if err != nil {
		return err
	}
	b.canary.judged = true
	if b.Fence != nil && b.Fence.OnCanary != nil {
		return b.Fence.OnCanary(ctx, len(b.canary.sent), succeeded)
	}
	return nil
}

// awaitCanary waits for the outcomes. It returns a CanaryError if too few letters
// succeed in time.
func (s *Store) awaitCanary(ctx context.Context, c *canaryRun) (succeeded int, err error) {
	limited, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, DefaultCanaryTimeout))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	open := slices.Collect(maps.Keys(c.sent))
	for limited.Err() == nil {
		var still []string
		for _, id := range open {
			now, err := s.find(limited, id)
			switch {
			case err != nil && limited.Err() == nil:
				return succeeded, err
			case err != nil: // out of time
				still = append(still, id)
			case now.message == "": // it was carried out, and is gone
				succeeded++
			case isParked(now.score) && sha1Of(now.message) != c.sent[id]: // it died again
			default:
				still = append(still, id)
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
		return succeeded, ctx.Err()
	}
	if float64(succeeded) < c.MinSuccess*float64(len(c.sent)) {
		return succeeded, &CanaryError{Replayed: len(c.sent), Succeeded: succeeded, MinSuccess: c.MinSuccess}
	}
	return succeeded, nil
}
