package asynqx

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns a logger for asynq's servers and schedulers that writes to
// log. A worker runs many servers, and each of them reports its own start, stop
// and errors. So asynq's info lines become debug lines, and lines that repeat, as
// errors do while Redis is away, are sampled.
func NewLogger(log *zap.Logger) asynq.Logger { return logger{Sampled(log.Named("asynq"))} }

// Sampled returns a logger that writes of lines with the same text the first 3
// in 10 s, and then every 100th. It is for libraries that report the same
// trouble from each of their many goroutines.
func Sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WithCaller(false), zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, 10*time.Second, 3, 100)
	}))
}

type logger struct{ log *zap.Logger }

var _ asynq.Logger = logger{}

// Debug implements asynq.Logger.
func (l logger) Debug(args ...any) { l.write(zap.DebugLevel, args) }

// Info implements asynq.Logger.
func (l logger) Info(args ...any) { l.write(zap.DebugLevel, args) }

// Warn implements asynq.Logger.
func (l logger) Warn(args ...any) { l.write(zap.WarnLevel, args) }

// Error implements asynq.Logger.
func (l logger) Error(args ...any) { l.write(zap.ErrorLevel, args) }

// Fatal implements asynq.Logger. It does not end the process: main decides that.
func (l logger) Fatal(args ...any) { l.write(zap.ErrorLevel, args) }

// taskID is how asynq names a task in its lines.
var taskID = regexp.MustCompile(`\bid=(\S+)`)

// sharedClient is what a scheduler says when it ends and does not close the Redis
// client, because the client is its caller's. That is no error.
const sharedClient = "redis connection is shared"

// write makes the task's ID a field, so that lines which differ in nothing else
// have the same text for the sampler.
func (l logger) write(level zapcore.Level, args []any) {
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
