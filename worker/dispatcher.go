package worker

import (
	"context"
	"time"

	"github.com/hibiken/asynq"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
	"github.com/kooworker/kooworker/worker/fetch"
	"github.com/kooworker/kooworker/worker/pipeline"
	"github.com/kooworker/kooworker/worker/recovery"
)

// dispatcher is the handler of the asynq server. It compares the whole name of the
// queue, and the decoder the whole kind. asynq's ServeMux would match prefixes.
type dispatcher struct {
	pipeline *pipeline.Pipeline
	letters  *deadletter.Store
	suspects *recovery.Suspects
	// inFlight ends when tasks in flight are cut short. It ends the handlers'
	// contexts only: asynq would drop a task whose own context ends, though its
	// outcome is being stored.
	inFlight context.Context
	fetcher  *fetch.Fetcher
	pauses   *pauseWatch
}

var _ asynq.Handler = dispatcher{}

// ProcessTask implements asynq.Handler.
func (h dispatcher) ProcessTask(ctx context.Context, t *asynq.Task) error {
	growStack(0)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.inFlight, cancel)()
	d := pipeline.NewDelivery(ctx, t)
	d.Attempted = h.fetcher.Begin(d.Suspect)
	defer d.Attempted()
	if d.Queue == tasks.QueueDeadLetter {
		return h.processLetter(ctx, d)
	}
	if d.Suspect {
		return pipeline.ToAsynqError(d, h.processSuspect(ctx, d))
	}
	return pipeline.ToAsynqError(d, h.pipeline.Process(ctx, d))
}

// growStack makes the stack of this goroutine as large as a call of KooDrive needs. asynq
// begins a goroutine for each task. Its stack would grow several times on the way down, and
// copying it then, with all its frames, takes a tenth of a worker's CPU time.
//
//go:noinline
func growStack(i int) byte {
	var room [9 << 10]byte
	return room[i] // which byte is unknown here, so that the compiler keeps them
}

// processSuspect processes a delivery that may have killed a worker. It runs alone,
// or is put back. See package recovery.
func (h dispatcher) processSuspect(ctx context.Context, d pipeline.Delivery) pipeline.Decision {
	run, wait := h.suspects.Admit(ctx, d.Queue, d.ID)
	switch {
	case wait > 0:
		return h.pipeline.PutBack(ctx, d, pipeline.Problem{
			Reason: tasks.Waiting, Detail: "a worker died while it ran; it runs again when no other such task does", RetryAfter: wait,
		})
	case run == nil:
		return h.pipeline.Process(ctx, d)
	}
	survived := false
	defer func() { run.End(ctx, survived) }()
	d.Calling = run.Calling
	decision := h.pipeline.Process(ctx, d)
	survived = decision.Action != pipeline.Retry || decision.CountsAsAttempt
	if decision.Action == pipeline.Complete && !d.Replay {
		// If this fails, an operator sees a letter whose task is done.
		_ = h.letters.Withdraw(ctx, d.ID, d.Payload)
	}
	return decision
}

// processLetter parks a letter that has just arrived in the dead-letter queue. A
// letter that was parked before runs here because somebody replays it: processLetter
// tries its task once more, unless the queue in which the task died is paused. See package
// deadletter.
func (h dispatcher) processLetter(ctx context.Context, d pipeline.Delivery) error {
	letter := deadletter.Decode(d.ID, string(d.Kind), d.Payload)
	d.Replay, d.Payload = true, letter.Payload
	decision := pipeline.Decision{Action: pipeline.Park, Reason: letter.Reason, Error: letter.Error}
	arrives := d.Retries == 0
	if !arrives {
		d.Attempts = letter.Attempts + d.Retries - 1
		if why, wait := h.pauses.holds(letter); wait {
			return pipeline.ToAsynqError(d, h.pipeline.PutBack(ctx, d, why))
		}
		if d.Suspect || letter.Reason == tasks.Crashed {
			decision = h.processSuspect(ctx, d)
		} else {
			decision = h.pipeline.Process(ctx, d)
		}
	}
	if decision.Action == pipeline.Complete {
		_ = h.letters.Unindex(ctx, letter) // housekeeping removes entries without a letter
	}
	if decision.Action == pipeline.Park {
		if err := h.index(ctx, letter, decision, arrives); err != nil {
			decision = pipeline.Decision{Action: pipeline.Retry, Reason: decision.Reason, Error: err.Error(), Delay: time.Second}
		}
	}
	return pipeline.ToAsynqError(d, decision)
}

// index adds a letter that is about to be parked to the index. One that arrives is there
// already, unless somebody has put it into the queue by hand. One whose replay has failed
// has died again, perhaps for another reason.
func (h dispatcher) index(ctx context.Context, letter deadletter.Letter, decision pipeline.Decision, arrives bool) error {
	if arrives {
		return h.letters.IndexMissing(ctx, letter)
	}
	letter.Reason, letter.DeadAt = decision.Reason, time.Now()
	return h.letters.IndexDeath(ctx, letter)
}
