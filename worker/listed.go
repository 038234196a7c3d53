package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// listed are the sources of locks besides the ledger.
type listed struct {
	known map[tasks.Source]*locks.Listed
	log   *zap.Logger
	// What is wrong with a source is wrong for every task: it is said now and then.
	missing, failing *rate.Sometimes

	mu    sync.Mutex
	since map[tasks.Source]time.Time // when the looks there began to fail
}

const sayEvery = time.Minute

func newListed(all []*locks.Listed, log *zap.Logger) *listed {
	l := &listed{
		known: make(map[tasks.Source]*locks.Listed, len(all)), log: log,
		missing: &rate.Sometimes{Interval: sayEvery}, failing: &rate.Sometimes{Interval: sayEvery},
		since: make(map[tasks.Source]time.Time),
	}
	for _, source := range all {
		l.known[source.Kind()] = source
	}
	return l
}

// know reports whether it can be looked there.
func (l *listed) know(source tasks.Source) bool {
	return source == tasks.SourceLedger || l.known[source] != nil
}

// wait is the answer where another worker may know better.
func (l *listed) wait(source tasks.Source) pipeline.Answer {
	answer := pipeline.Answer{
		Reason: tasks.Waiting, Message: fmt.Sprintf("this worker does not know the source %q of locks", source),
		Hint: "give every worker --source-dsn and --source-query, or --source-file", Held: true, Uncalled: true, RetryAfter: announceEvery,
	}
	if source == tasks.SourceLedger {
		answer.Hint = "give every worker the ledger: Config.Locks"
	}
	l.missing.Do(func() {
		l.log.Warn("sweeps or releases wait for a worker that knows their source", zap.String("source", string(source)), zap.String("hint", answer.Hint))
	})
	return answer
}

// lookedKey is the context's key of the time of the last look.
type lookedKey struct{}

// look looks at a lock where the sweep has found it. stays is nil if it may be
// released; the context for the call remembers when that was.
func (l *listed) look(ctx context.Context, t tasks.LockRelease) (call context.Context, stays *pipeline.Answer) {
	source := l.known[t.Stale.Source]
	if source == nil { // the ledger, which was asked by the claim
		return ctx, nil
	}
	looked := time.Now()
	refused, err := source.Look(ctx, t)
	if err != nil {
		l.failing.Do(func() {
			l.log.Warn("it cannot be looked whether locks were renewed: their releases wait", zap.String("source", string(t.Stale.Source)), zap.Error(err))
		})
		answer := unavailable(err) // not the task's fault
		answer.RetryAfter = l.pause(t.Stale.Source)
		return ctx, &answer
	}
	l.answers(t.Stale.Source)
	if refused != "" {
		answer := superseded(refused)
		return ctx, &answer
	}
	return context.WithValue(ctx, lookedKey{}, looked), nil
}

// pause is how long a release waits for a source that fails: as long again as it
// has failed, since there may be many that wait for it. They come back one after
// the other.
func (l *listed) pause(source tasks.Source) time.Duration {
	const least, most = 5 * time.Second, 30 * time.Second
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since[source].IsZero() {
		l.since[source] = time.Now()
	}
	failing := min(max(time.Since(l.since[source]), least), most)
	return failing + rand.N(failing) //nolint:gosec // no secret
}

// answers notes that a source does not fail, or no more.
func (l *listed) answers(source tasks.Source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.since, source)
}

// lookout is an API that looks once more where the task has waited at the gate
// since the last look; at the clock, too.
type lookout struct {
	koodriveAPI
	sources *listed
}

// lookLife is how long a look is as good as new.
const lookLife = time.Second

// Do implements koodriveAPI.
func (l lookout) Do(ctx context.Context, t tasks.Task) pipeline.Answer {
	release, _ := t.(tasks.LockRelease)
	// The claim may be over. The client looks as well, but there the gate would take
	// it for KooDrive's fault.
	if koodrive.DeadlinePassed(ctx) {
		return unavailable(errors.New("the time for this call was over before it was made"))
	}
	if looked, ok := ctx.Value(lookedKey{}).(time.Time); ok && time.Since(looked) > lookLife {
		if _, stays := l.sources.look(ctx, release); stays != nil {
			return *stays
		}
	}
	return l.koodriveAPI.Do(ctx, t)
}
