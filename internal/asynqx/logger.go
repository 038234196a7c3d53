package asynqx

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns a logger for asynq's servers and schedulers that writes to log, which
// should be sampled: each of asynq's goroutines reports the same errors while Redis is away.
// asynq's info lines, about each start and stop, become debug lines. The texts become
// readable, see tidy.
func NewLogger(log *zap.Logger) asynq.Logger { return logger{log.Named("asynq")} }

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

// sharedClient is what a scheduler says when it ends and does not close the Redis
// client, because the client is its caller's. That is no error.
const sharedClient = "redis connection is shared"

func (l logger) write(level zapcore.Level, args []any) {
	text := fmt.Sprint(args...)
	if strings.Contains(text, sharedClient) {
		level = zap.DebugLevel
	}
	if !l.log.Core().Enabled(level) {
		return
	}
	text, fields := tidy(text)
	l.log.Log(level, text, fields...)
}

// What asynq's lines have in them.
var (
	// asynqCode is what asynq puts before the cause of an error.
	asynqCode = regexp.MustCompile(`\b(?:ERROR_CODE_UNSPECIFIED|NOT_FOUND|FAILED_PRECONDITION|INTERNAL_ERROR|ALREADY_EXISTS|UNKNOWN): |\bredis (?:eval|command) error: `)
	// monotonic is the reading of the monotonic clock that Go prints after a time.
	monotonic = regexp.MustCompile(` m=[+-][0-9.]+`)
	taskID    = regexp.MustCompile(`\bid=(\S+)`)
	leaseOf   = regexp.MustCompile(`^(Lease reset failed for )(\S+)(; lease deadline: )(.*)$`)
	taskList  = regexp.MustCompile(`\btasks \[([^\]]*)\]`)
	queueName = regexp.MustCompile(`\bqueue[ =]"([^"]*)"`)
	queueOf   = regexp.MustCompile(`asynq:\{([^}]*)\}:`)
)

// maxText is the longest text of a line.
const maxText = 250

// tidy takes out of a line of asynq what only asynq's authors can read: codes and stacks.
// What differs from task to task and from queue to queue becomes a field, so that lines
// about the same trouble have the same text for the sampler.
func tidy(text string) (string, []zap.Field) {
	var fields []zap.Field
	text, stack, _ := strings.Cut(text, "\n")
	text = monotonic.ReplaceAllLiteralString(asynqCode.ReplaceAllLiteralString(text, ""), "")
	if m := leaseOf.FindStringSubmatch(text); m != nil {
		text = m[1] + "id=" + m[2]
		fields = append(fields, zap.String("lease_until", m[4]))
	}
	extract := func(pattern *regexp.Regexp, name, with string) {
		if m := pattern.FindStringSubmatch(text); m != nil {
			text = pattern.ReplaceAllLiteralString(text, with)
			fields = append(fields, zap.String(name, m[1]))
		}
	}
	extract(taskID, "id", "id=…")
	extract(queueName, "queue", "queue …")
	extract(queueOf, "queue", "")
	if m := taskList.FindStringSubmatch(text); m != nil {
		text = taskList.ReplaceAllLiteralString(text, strconv.Itoa(len(strings.Fields(m[1])))+" tasks")
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	if stack != "" {
		fields = append(fields, zap.String("stack", stack))
	}
	return text, fields
}
