package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// listed are the sources of locks besides the ledger.
type listed struct {
	known map[tasks.Source]*locks.Listed
	log   *zap.Logger
	// What is wrong with a source is wrong for every task: it is said now and then.
	missing, failing *rate.Sometimes
}

const sayEvery = time.Minute

func newListed(all []*locks.Listed, log *zap.Logger) *listed {
	l := &listed{
		known: make(map[tasks.Source]*locks.Listed, len(all)), log: log,
		missing: &rate.Sometimes{Interval: sayEvery}, failing: &rate.Sometimes{Interval: sayEvery},
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
	switch {
	case err != nil:
		l.failing.Do(func() {
			l.log.Warn("it cannot be looked whether locks were renewed: their releases wait", zap.String("source", string(t.Stale.Source)), zap.Error(err))
		})
		// Not the task's fault. Others wait for the same source: they come back one
		// after the other.
		const least, spread = 5 * time.Second, 10 * time.Second
		answer := unavailable(err)
		answer.RetryAfter = least + rand.N(spread) //nolint:gosec // no secret
		return ctx, &answer
	case refused != "":
		answer := superseded(refused)
		return ctx, &answer
	}
	return context.WithValue(ctx, lookedKey{}, looked), nil
}

// lookout is an API that looks once more where the task has waited at the gate
// since the last look.
type lookout struct {
	koodriveAPI
	sources *listed
}

// lookLife is how long a look is as good as new.
const lookLife = time.Second

// Do implements koodriveAPI.
func (l lookout) Do(ctx context.Context, t tasks.Task) pipeline.Answer {
	release, _ := t.(tasks.LockRelease)
	if looked, ok := ctx.Value(lookedKey{}).(time.Time); ok && time.Since(looked) > lookLife {
		if _, stays := l.sources.look(ctx, release); stays != nil {
			return *stays
		}
	}
	return l.koodriveAPI.Do(ctx, t)
}
