package jobs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	"github.com/kooworker/kooworker/worker/pipeline"
)

// lockSource is where locks are known besides the ledger. *locks.External is one.
type lockSource interface {
	Kind() tasks.Source
	// Lookup says how a lock is now. If refused is empty it is as the sweep saw it;
	// else it says why the lock must stay.
	Lookup(ctx context.Context, t tasks.LockRelease) (refused string, err error)
}

var _ lockSource = (*locks.External)(nil)

// lockSources are the sources that this worker knows.
type lockSources struct {
	known map[tasks.Source]lockSource
	log   *zap.Logger
	// What is wrong with a source is wrong for every task: it is logged now and then.
	logMissing, logFailing *rate.Sometimes

	mu           sync.Mutex
	failingSince map[tasks.Source]time.Time
}

const logSourceEvery = time.Minute

func newLockSources(all []*locks.External, log *zap.Logger) *lockSources {
	s := &lockSources{
		known: make(map[tasks.Source]lockSource, len(all)), log: log,
		logMissing: &rate.Sometimes{Interval: logSourceEvery}, logFailing: &rate.Sometimes{Interval: logSourceEvery},
		failingSince: make(map[tasks.Source]time.Time),
	}
	for _, source := range all {
		s.known[source.Kind()] = source
	}
	return s
}

// has reports whether this worker can recheck locks of a source.
func (s *lockSources) has(source tasks.Source) bool {
	return source == tasks.SourceLedger || s.known[source] != nil
}

// missing is the result where only another worker may know the source.
func (s *lockSources) missing(source tasks.Source) *pipeline.Result {
	const hint = "give every worker --source-dsn and --source-query, or --source-file"
	s.logMissing.Do(func() {
		s.log.Warn("sweeps or releases wait for a worker that knows their source", zap.String("source", string(source)), zap.String("hint", hint))
	})
	return waitFor(fmt.Sprintf("this worker does not know the source %q of locks", source), hint, otherWorkerPause)
}

// recheck looks at a lock where the sweep has found it. refused is empty if the
// lock may be released, and where the source is the ledger.
func (s *lockSources) recheck(ctx context.Context, t tasks.LockRelease) (refused string, err error) {
	source := s.known[t.Evidence.Source]
	if source == nil {
		return "", nil
	}
	refused, err = source.Lookup(ctx, t)
	if err != nil {
		s.logFailing.Do(func() {
			s.log.Warn("cannot check whether locks were renewed: their releases wait", zap.String("source", string(t.Evidence.Source)), zap.Error(err))
		})
		return "", err
	}
	s.markHealthy(t.Evidence.Source)
	return refused, nil
}

// pause is how long a release waits for a source that fails: as long again as the
// source has failed, since many releases may wait for it, and a random part, so
// that they come back one after the other.
func (s *lockSources) pause(source tasks.Source) time.Duration {
	const least, most = 5 * time.Second, 30 * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failingSince[source].IsZero() {
		s.failingSince[source] = time.Now()
	}
	failing := min(max(time.Since(s.failingSince[source]), least), most)
	return failing + rand.N(failing) //nolint:gosec // no secret
}

// markHealthy notes that a source answers.
func (s *lockSources) markHealthy(source tasks.Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failingSince, source)
}
