package worker

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// asynqLogger sends asynq's lines to zap. Every poller reports its own start,
// stop and errors, so its news are debug lines here, and an error that repeats
// while Redis is away is written a few times and then now and then.
type asynqLogger struct {
	log *zap.Logger
}

var _ asynq.Logger = asynqLogger{}

const (
	sampleTick       = 10 * time.Second
	sampleFirst      = 3
	sampleThereafter = 100
)

// AsynqLogger returns a logger for asynq's schedulers.
func AsynqLogger(log *zap.Logger) asynq.Logger { return newAsynqLogger(log) }

func newAsynqLogger(log *zap.Logger) asynqLogger {
	return asynqLogger{Sampled(log.Named("asynq"))}
}

// Sampled thins out lines that repeat to the letter. It is for libraries that
// report the same trouble for each of their many goroutines.
func Sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WithCaller(false), zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, sampleTick, sampleFirst, sampleThereafter)
	}))
}

// Debug implements asynq.Logger.
func (l asynqLogger) Debug(args ...any) { l.write(zap.DebugLevel, args) }

// Info implements asynq.Logger.
func (l asynqLogger) Info(args ...any) { l.write(zap.DebugLevel, args) }

// Warn implements asynq.Logger.
func (l asynqLogger) Warn(args ...any) { l.write(zap.WarnLevel, args) }

// Error implements asynq.Logger.
func (l asynqLogger) Error(args ...any) { l.write(zap.ErrorLevel, args) }

// Fatal implements asynq.Logger. It does not end the process: that is for main
// to decide.
func (l asynqLogger) Fatal(args ...any) { l.write(zap.ErrorLevel, args) }

// taskID is how asynq names a task in its lines.
var taskID = regexp.MustCompile(`\bid=(\S+)`)

// sharedClient is what a scheduler says at its end of a client that is not its
// own to close, which is as it should be.
const sharedClient = "redis connection is shared"

// write makes the task's id a field: lines that differ in nothing else are one
// to the sampler.
func (l asynqLogger) write(level zapcore.Level, args []any) {
	text := fmt.Sprint(args...)
	if strings.Contains(text, sharedClient) {
		level = zap.DebugLevel
	}
	var fields []zap.Field
	if id := taskID.FindStringSubmatch(text); id != nil {
		text = taskID.ReplaceAllLiteralString(text, "id=…")
		fields = append(fields, zap.String("id", id[1]))
	}
	l.log.Log(level, text, fields...)
}
