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

// lockSource lists locks that are not in the lock ledger. *locks.External is one.
type lockSource interface {
	Kind() tasks.SourceKind
	// Lookup checks a lock again. If refused is empty, the lock is as the sweep saw
	// it. Otherwise refused says why the lock must stay.
	Lookup(ctx context.Context, t tasks.LockRelease) (refused string, err error)
}

var _ lockSource = (*locks.External)(nil)

// lockSources holds the sources that this worker can read.
type lockSources struct {
	known map[tasks.SourceKind]lockSource
	log   *zap.Logger
	// A source that is missing or fails affects every task: it is logged now and then.
	logMissing, logFailing *rate.Sometimes

	mu           sync.Mutex
	failingSince map[tasks.SourceKind]time.Time
}

const logSourceEvery = time.Minute

func newLockSources(all []*locks.External, log *zap.Logger) *lockSources {
	s := &lockSources{
		known: make(map[tasks.SourceKind]lockSource, len(all)), log: log,
		logMissing: &rate.Sometimes{Interval: logSourceEvery}, logFailing: &rate.Sometimes{Interval: logSourceEvery},
		failingSince: make(map[tasks.SourceKind]time.Time),
	}
	for _, source := range all {
		s.known[source.Kind()] = source
	}
	return s
}

// has reports whether this worker can recheck locks of a source.
func (s *lockSources) has(source tasks.SourceKind) bool {
	return source == tasks.SourceLedger || s.known[source] != nil
}

// missing is the result if this worker does not know the source. Another worker
// may know it.
func (s *lockSources) missing(source tasks.SourceKind) pipeline.Result {
	const hint = "give every worker --source-dsn and --source-query, or --source-file"
	s.logMissing.Do(func() {
		s.log.Warn("sweeps or releases wait for a worker that knows their source", zap.String("source", string(source)), zap.String("hint", hint))
	})
	return waitFor(fmt.Sprintf("this worker does not know the source %q of locks", source), hint, otherWorkerPause)
}

// recheck checks a lock again in its source. refused is empty if the lock may be
// released, and if the source is the lock ledger.
func (s *lockSources) recheck(ctx context.Context, t tasks.LockRelease) (refused string, err error) {
	source := s.known[t.Evidence.Source]
	if source == nil {
		return "", nil
	}
	refused, err = source.Lookup(ctx, t)
	if err != nil {
		s.logFailing.Do(func() {
			s.log.Warn("cannot check whether locks were renewed; their releases wait", zap.String("source", string(t.Evidence.Source)), zap.Error(err))
		})
		return "", err
	}
	s.markHealthy(t.Evidence.Source)
	return refused, nil
}

// pause is how long a release waits for a source that fails: as long as the source
// has been failing, plus a random part, since many releases may wait for it.
func (s *lockSources) pause(source tasks.SourceKind) time.Duration {
	const least, most = 5 * time.Second, 30 * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failingSince[source].IsZero() {
		s.failingSince[source] = time.Now()
	}
	failing := min(max(time.Since(s.failingSince[source]), least), most)
	return failing + rand.N(failing) //nolint:gosec // no secret
}

// markHealthy records that a source answers.
func (s *lockSources) markHealthy(source tasks.SourceKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failingSince, source)
}
