package enqueue

import (
	"context"
	"time"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// The names that rounds.go still uses.

type dictation = sender

type script = asynqx.Script

func (c *Client) newDictation() *sender { return c.newSender() }

func (s *sender) write(ctx context.Context, t tasks.Task, id string, payload []byte, runAt time.Time) (asynqx.Script, error) {
	return s.capture(ctx, t, id, payload, runAt)
}

func isNoScript(err error) bool { return asynqx.IsNoScript(err) }
