package worker

import (
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hibiken/asynq"
)

// asynqLogger sends asynq's lines to zap. Every poller reports its own start,
// stop and errors, so its news are debug lines here, and an error that repeats
// while Redis is away is written a few times and then now and then.
type asynqLogger struct {
	log *zap.SugaredLogger
}

var _ asynq.Logger = asynqLogger{}

const (
	sampleTick       = 10 * time.Second
	sampleFirst      = 3
	sampleThereafter = 100
)

func newAsynqLogger(log *zap.Logger) asynqLogger {
	return asynqLogger{Sampled(log.Named("asynq")).Sugar()}
}

// Sampled thins out lines that repeat to the letter. It is for libraries that
// report the same trouble for each of their many goroutines.
func Sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WithCaller(false), zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, sampleTick, sampleFirst, sampleThereafter)
	}))
}

// Debug implements asynq.Logger.
func (l asynqLogger) Debug(args ...any) { l.log.Debug(fmt.Sprint(args...)) }

// Info implements asynq.Logger.
func (l asynqLogger) Info(args ...any) { l.log.Debug(fmt.Sprint(args...)) }

// Warn implements asynq.Logger.
func (l asynqLogger) Warn(args ...any) { l.log.Warn(fmt.Sprint(args...)) }

// Error implements asynq.Logger.
func (l asynqLogger) Error(args ...any) { l.log.Error(fmt.Sprint(args...)) }

// Fatal implements asynq.Logger. It does not end the process: that is for main
// to decide.
func (l asynqLogger) Fatal(args ...any) { l.log.Error(fmt.Sprint(args...)) }
