package recovery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
)

// Suspects lets the suspects of this process run one at a time. The package comment
// says what a suspect is. It is safe for concurrent use.
type Suspects struct {
	rdb     redis.UniversalClient
	process string
	slot    chan struct{} // full while a suspect runs
	room    chan struct{} // one entry for each suspect that waits in place

	mu    sync.Mutex
	took  time.Duration // the last run of a suspect
	until time.Time     // when those that were put back may all have run
}

// NewSuspects returns the suspects of this process. So many of them may wait in place
// for a moment, so that the next one runs at once. All others are put back.
func NewSuspects(rdb redis.UniversalClient, waiting int) *Suspects {
	return &Suspects{
		rdb: rdb, process: asynqx.ThisProcess(), slot: make(chan struct{}, 1), room: make(chan struct{}, waiting),
	}
}

// SuspectRun is the run of a suspect. No other suspect runs in this process.
type SuspectRun struct {
	suspects *Suspects
	key      string
	began    time.Time
}

// aloneCmd writes whether a task is being called alone, if the task is still there.
//
// KEYS[1] -> asynq:{<queue>}:t:<task_id>
// --
// ARGV[1] -> the process that calls it, or "" for none
// ARGV[2] -> 1 if the task has survived and is no suspect any more
//
// Returns 1, or 0 if the task is gone.
var aloneCmd = redis.NewScript(`
if redis.call("HEXISTS", KEYS[1], "msg") == 0 then return 0 end
if ARGV[2] == "1" then
  redis.call("HDEL", KEYS[1], "kooworker_alone", "kooworker_crashes_alone", "kooworker_crashes_calm")
  redis.call("HSET", KEYS[1], "kooworker_cleared", "1")
elseif ARGV[1] == "" then
  redis.call("HDEL", KEYS[1], "kooworker_alone")
else
  redis.call("HSET", KEYS[1], "kooworker_alone", ARGV[1])
end
return 1
`)

// Admit is asked before a task with the mark of a suspect is processed. It returns
// one of three things:
//
//   - a run: the task runs alone, until End is called, which must be called
//   - a wait: another suspect runs, or Redis fails. The task must be put back and
//     come again after the wait.
//   - neither: the task has survived since it was marked, and runs like any other
//
// The hash says that the task is being called alone from here on, until Calling
// says something else.
func (s *Suspects) Admit(ctx context.Context, queue, id string) (run *SuspectRun, wait time.Duration) {
	run = &SuspectRun{suspects: s, key: asynqx.TaskKey(queue, id)}
	switch cleared, err := run.cleared(ctx); {
	case err != nil:
		return nil, refusalWait(0)
	case cleared:
		return nil, 0
	}
	if !s.begin(ctx) {
		return nil, refusalWait(s.turn())
	}
	if err := run.Calling(ctx, true); err != nil {
		<-s.slot
		return nil, refusalWait(0)
	}
	run.began = time.Now()
	return run, 0
}

// maxInPlace is how long a suspect waits in place for another one to end.
const maxInPlace = time.Second

// begin makes this suspect the one that runs, if it can.
func (s *Suspects) begin(ctx context.Context) bool {
	select {
	case s.slot <- struct{}{}:
		return true
	default:
	}
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	default:
		return false
	}
	timer := time.NewTimer(maxInPlace)
	defer timer.Stop()
	select {
	case s.slot <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// turn returns how long it takes until a suspect that is put back now has its turn,
// if all those before it take as long as the last one did.
func (s *Suspects) turn() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.until.Before(now) {
		s.until = now
	}
	s.until = s.until.Add(s.took)
	if last := now.Add(maxRefusal); s.until.After(last) {
		s.until = last // those that come back too early are counted again
	}
	return s.until.Sub(now)
}

// maxRefusal is the longest time over which suspects that were put back come back.
const maxRefusal = 30 * time.Second

// refusalWait is how long a suspect that was put back waits: at random, so that as
// many come back as can run. asynq keeps whole seconds.
func refusalWait(turn time.Duration) time.Duration {
	const least, spread = time.Second, time.Second
	return least + rand.N(max(turn, spread)) //nolint:gosec // spreading load, not guarding a secret
}

func (r *SuspectRun) cleared(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return r.suspects.rdb.HExists(ctx, r.key, hashCleared).Result()
}

// Calling says whether the task is being called. A crash counts against the task
// only while it is.
func (r *SuspectRun) Calling(ctx context.Context, calling bool) error {
	process := ""
	if calling {
		process = r.suspects.process
	}
	return r.write(ctx, process, false)
}

// End ends the run. survived means that the task was carried out, and the worker
// lives: then the task is no suspect any more. If it was not carried out, for
// example because the gate refused it, it runs alone again.
//
// If the process dies before this, or Redis does not take it, the task stays a
// suspect.
func (r *SuspectRun) End(ctx context.Context, survived bool) {
	defer func() {
		r.suspects.mu.Lock()
		r.suspects.took = time.Since(r.began)
		r.suspects.mu.Unlock()
		<-r.suspects.slot
	}()
	_ = r.write(ctx, "", survived)
}

// write writes even if ctx has ended: the task may have been interrupted.
func (r *SuspectRun) write(ctx context.Context, process string, survived bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	if err := aloneCmd.Run(ctx, r.suspects.rdb, []string{r.key}, process, survived).Err(); err != nil {
		return fmt.Errorf("write whether a suspect is called: %w", err)
	}
	return nil
}
