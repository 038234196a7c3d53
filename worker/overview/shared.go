package overview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	overviewKey = "{kooworker:fleet}:overview"      // the overview that was read last, in JSON
	turnKey     = "{kooworker:fleet}:overview:turn" // who reads the next one

	// readEvery is the time between two overviews.
	readEvery = 10 * time.Second
	// turnTTL is how long one process has the turn. It is a little shorter than readEvery,
	// so that the process that comes first after that has the next one.
	turnTTL = 9 * time.Second
	// keepFor is how long an overview is kept. An older one would say nothing of the present.
	keepFor = time.Minute
	// readTimeout bounds what is read each time.
	readTimeout = 8 * time.Second
)

// SharedConfig is what a Shared needs.
type SharedConfig struct {
	Redis  redis.UniversalClient
	Grace  time.Duration // see Options
	Logger *zap.Logger
}

// Shared is the overview that all processes over one Redis share.
//
// Who reads it is settled by a key that expires: the first process that sets it has the turn
// for this time. If that process dies, its turn ends, and another one reads the next. If it
// dies after it has read and before it has written, this overview is missing, and the
// others keep the one before.
type Shared struct {
	cfg    SharedConfig
	id     string
	latest atomic.Pointer[shared]
	ping   atomic.Pointer[Redis] // of this process; nil until it has pinged
}

// shared is an overview on the wire, with what only the metrics show of queues.
type shared struct {
	Overview
	Asynq []asynqQueue `json:"asynq"`

	readAt time.Time // when this process got it
}

// NewShared returns a Shared that knows nothing until Run has read it.
func NewShared(cfg SharedConfig) *Shared { return &Shared{cfg: cfg, id: uuid.NewString()} }

// Run keeps the overview up to date until ctx ends.
func (s *Shared) Run(ctx context.Context) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	failed := false
	for {
		err := s.refresh(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			s.cfg.Logger.Warn("cannot read the overview for the metrics; trying again", zap.Error(err))
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// refresh reads the overview from the queues if it is this process's turn, and else what
// another one has left.
func (s *Shared) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	began := time.Now()
	pinged := Redis{Up: true}
	mine, err := s.cfg.Redis.SetNX(ctx, turnKey, s.id, turnTTL).Result()
	if pinged.Seconds = time.Since(began).Seconds(); err != nil {
		s.ping.Store(&Redis{Seconds: pinged.Seconds, Error: err.Error()})
		return fmt.Errorf("whose turn it is: %w", err)
	}
	s.ping.Store(&pinged)
	if !mine {
		return s.adopt(ctx)
	}
	v, err := Read(ctx, s.cfg.Redis, Options{Grace: s.cfg.Grace})
	if err != nil {
		return err
	}
	if len(v.Unread) > 0 {
		s.cfg.Logger.Warn("parts of the overview for the metrics cannot be read", zap.Strings("unread", v.Unread))
	}
	reports := v.Workers.List
	v.Workers.List = nil // each process has its own metrics
	next := shared{Overview: v, Asynq: asynqQueues(v.Queues), readAt: time.Now()}
	text, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode the overview: %w", err)
	}
	s.latest.Store(&next)
	if err := s.cfg.Redis.Set(ctx, overviewKey, text, keepFor).Err(); err != nil {
		return fmt.Errorf("leave the overview for the others: %w", err)
	}
	return keepSample(ctx, s.cfg.Redis, &v, reports)
}

// adopt takes the overview that another process has left.
func (s *Shared) adopt(ctx context.Context) error {
	text, err := s.cfg.Redis.Get(ctx, overviewKey).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil // it is just being read
	}
	if err != nil {
		return fmt.Errorf("read the overview: %w", err)
	}
	var next shared
	if err := json.Unmarshal(text, &next); err != nil {
		return nil //nolint:nilerr // another version has written it, and will again
	}
	next.readAt = time.Now()
	s.latest.Store(&next)
	return nil
}

// get returns the latest overview, nil if there is none or if it is too old.
func (s *Shared) get() *shared {
	latest := s.latest.Load()
	if latest == nil || time.Since(latest.readAt) > keepFor {
		return nil
	}
	return latest
}
