package worker

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// calm is a go-redis hook for the asynq servers' client. asynq asks for the
// next task again at once when the question failed. A Redis that is away makes
// that slow by itself; one that answers errors fast (its memory is full, it is
// loading, or only a replica) would be asked thousands of times a second.
type calm struct{}

var _ redis.Hook = calm{}

// calmPause is the time that a poller waits after such an error.
const calmPause = 500 * time.Millisecond

// troubles are how errors of a server begin that is not fit to be asked.
var troubles = []string{"OOM ", "READONLY ", "LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "NOREPLICAS ", "MISCONF ", "BUSY ", "TRYAGAIN "}

func isTrouble(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	for _, prefix := range troubles {
		// A script's error may be wrapped in the name of the script.
		if strings.HasPrefix(text, prefix) || strings.Contains(text, "-"+prefix) {
			return true
		}
	}
	return false
}

// DialHook implements redis.Hook; it changes nothing.
func (calm) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook; it changes nothing.
func (calm) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook implements redis.Hook. Only what has no deadline waits: asynq
// sets one where it settles a task, and there every second counts.
func (calm) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if _, urgent := ctx.Deadline(); urgent || !isTrouble(err) {
			return err
		}
		pause := time.NewTimer(calmPause)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		return err
	}
}
