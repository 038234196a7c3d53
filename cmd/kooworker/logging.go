package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/internal/asynqx"
)

type logFlags struct {
	LogLevel  string `name:"log-level" default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"Lowest level that is written: ${enum} (${default})."`
	LogFormat string `name:"log-format" default:"auto" enum:"auto,json,console" placeholder:"FORMAT" help:"${enum}; auto is console on a terminal and json elsewhere (${default})."`
}

// logger returns a logger that writes to w. The log lines of go-redis and of the
// standard library go there as well.
func (f *logFlags) logger(w io.Writer) *zap.Logger {
	log := f.build(w)
	f.adopt(log)
	return log
}

// quiet drops the log lines of libraries unless the level is debug. It is for
// commands that report a failure themselves.
func (f *logFlags) quiet(w io.Writer) {
	log := zap.NewNop()
	if f.LogLevel == "debug" {
		log = f.build(w)
	}
	f.adopt(log)
}

// commandLogger returns a logger for what is wrong beside a command, which succeeds
// nevertheless: only errors, unless the level is debug.
func (f *logFlags) commandLogger(w io.Writer) *zap.Logger {
	if f.LogLevel == "debug" {
		return f.build(w)
	}
	return f.build(w).WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel))
}

func (f *logFlags) build(w io.Writer) *zap.Logger {
	level, _ := zapcore.ParseLevel(f.LogLevel) // succeeds, because the flag is an enum
	return zap.New(zapcore.NewCore(f.encoder(w), zapcore.Lock(zapcore.AddSync(w)), level))
}

// encoder returns what writes a line in the chosen format.
func (f *logFlags) encoder(w io.Writer) zapcore.Encoder {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime, cfg.EncodeDuration = zapcore.RFC3339NanoTimeEncoder, zapcore.StringDurationEncoder
	if f.LogFormat == "json" || f.LogFormat == "auto" && !terminal.IsTerminal(w) {
		return zapcore.NewJSONEncoder(cfg)
	}
	cfg.EncodeTime, cfg.EncodeLevel = zapcore.TimeEncoderOfLayout("15:04:05.000"), zapcore.CapitalLevelEncoder
	if terminal.HasColors(w) {
		cfg.EncodeLevel = zapcore.CapitalColorLevelEncoder
	}
	return zapcore.NewConsoleEncoder(cfg)
}

// report does what report of the package does, with a line of the log: what reads the log of
// a command that runs for long must be able to read this line too.
func (f *logFlags) report(w io.Writer, err error) int {
	text, hint, code := describe(err)
	if text == "" {
		return code
	}
	fields := []zapcore.Field{zap.Int("exit_code", code)}
	if hint != "" {
		fields = append(fields, zap.String("hint", hint))
	}
	core := zapcore.NewCore(f.encoder(w), zapcore.AddSync(w), zapcore.DebugLevel)
	_ = core.Write(zapcore.Entry{Level: zapcore.FatalLevel, Time: time.Now(), Message: text}, fields) // a logger would end the process
	return code
}

// stdLog says which command has the loggers of the standard library and of
// go-redis. The process has one of each; if tests run several commands at a time,
// the latest command has them.
var stdLog struct {
	mu    sync.Mutex
	owner *logFlags
}

func (f *logFlags) adopt(log *zap.Logger) {
	adoptRedis(asynqx.Sampled(log))
	stdLog.mu.Lock()
	defer stdLog.mu.Unlock()
	stdLog.owner = f
	redirectStdLog(log)
}

// adoptRedis sends the lines of go-redis to log, which should be sampled.
func adoptRedis(log *zap.Logger) {
	redis.SetLogger(redisLogger{log.Named("redis").Sugar()})
}

// release stops writing to the command's stream, because the command is over. Further
// lines of the standard library go to the process's stderr, with the same filter.
func (f *logFlags) release() {
	stdLog.mu.Lock()
	defer stdLog.mu.Unlock()
	if stdLog.owner == f {
		stdLog.owner = nil
		redirectStdLog(f.build(os.Stderr))
	}
}

// redirectStdLog sends what is written with package log to zap. net/http writes
// there when it has no caller to return an error to.
func redirectStdLog(log *zap.Logger) {
	log = asynqx.Sampled(log.Named("net")).WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return unquoting{core} }))
	_, _ = zap.RedirectStdLogAt(log, zapcore.WarnLevel) // fails for unknown levels only
}

// unquoting cuts off what net/http quotes of a server's bytes: "Unsolicited
// response received on idle HTTP channel starting with …". A server may send our
// own Authorization header back.
type unquoting struct{ zapcore.Core }

// With implements zapcore.Core.
func (c unquoting) With(fields []zapcore.Field) zapcore.Core { return unquoting{c.Core.With(fields)} }

// Check implements zapcore.Core. The entry that it passes on is the one that is
// written.
func (c unquoting) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	e.Message, _, _ = strings.Cut(e.Message, " starting with ")
	return c.Core.Check(e, ce)
}

// redisLogger sends the lines of go-redis to zap. They are about failing
// connections, which the caller of a command also gets as errors.
type redisLogger struct{ log *zap.SugaredLogger }

// Printf implements the logger interface of go-redis.
func (l redisLogger) Printf(_ context.Context, format string, v ...any) {
	l.log.Warn(strings.TrimSpace(fmt.Sprintf(format, v...)))
}

// logFlagsOf returns the log flags of a command line that cannot be parsed: kong stops at the
// first error.
func logFlagsOf(args []string) *logFlags {
	known := logFlags{LogFormat: cmp.Or(os.Getenv("KOOWORKER_LOG_FORMAT"), "auto")}
	for i, arg := range args {
		if format, ok := strings.CutPrefix(arg, "--log-format="); ok {
			known.LogFormat = format
		} else if arg == "--log-format" && i+1 < len(args) {
			known.LogFormat = args[i+1]
		}
	}
	return &known
}
