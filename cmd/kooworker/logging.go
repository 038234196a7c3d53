package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

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
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime, cfg.EncodeDuration = zapcore.RFC3339NanoTimeEncoder, zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(cfg)
	if f.LogFormat == "console" || f.LogFormat == "auto" && terminal.IsTerminal(w) {
		cfg.EncodeTime, cfg.EncodeLevel = zapcore.TimeEncoderOfLayout("15:04:05.000"), zapcore.CapitalColorLevelEncoder
		encoder = zapcore.NewConsoleEncoder(cfg)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level))
}

// stdLog says which command has the loggers of the standard library and of
// go-redis. The process has one of each; if tests run several commands at a time,
// the latest command has them.
var stdLog struct {
	mu    sync.Mutex
	owner *logFlags
}

func (f *logFlags) adopt(log *zap.Logger) {
	redis.SetLogger(redisLogger{asynqx.Sampled(log.Named("redis")).Sugar()})
	stdLog.mu.Lock()
	defer stdLog.mu.Unlock()
	stdLog.owner = f
	redirectStdLog(log)
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
