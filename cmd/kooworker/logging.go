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

	"github.com/kooworker/kooworker/internal/asynqx"
)

type logFlags struct {
	LogLevel  string `name:"log-level" default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"Least level that is written: ${enum} (${default})."`
	LogFormat string `name:"log-format" default:"auto" enum:"auto,json,console" placeholder:"FORMAT" help:"${enum}; auto is console on a terminal and json elsewhere (${default})."`
}

// logger writes to the given stream, and takes along the lines of go-redis and
// of the standard library.
func (f *logFlags) logger(w io.Writer) *zap.Logger {
	log := f.build(w)
	f.adopt(log)
	return log
}

// quiet is for commands that end with their own word about a failure: the
// lines of libraries before it only show at debug level.
func (f *logFlags) quiet(w io.Writer) {
	log := zap.NewNop()
	if f.LogLevel == "debug" {
		log = f.build(w)
	}
	f.adopt(log)
}

func (f *logFlags) build(w io.Writer) *zap.Logger {
	level, err := zapcore.ParseLevel(f.LogLevel)
	if err != nil { // the enum has seen to it
		level = zapcore.InfoLevel
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime, cfg.EncodeDuration = zapcore.RFC3339NanoTimeEncoder, zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(cfg)
	if f.LogFormat == "console" || f.LogFormat == "auto" && isTerminal(w) {
		cfg.EncodeTime, cfg.EncodeLevel = zapcore.TimeEncoderOfLayout("15:04:05.000"), zapcore.CapitalColorLevelEncoder
		encoder = zapcore.NewConsoleEncoder(cfg)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level))
}

// stdLog is whose the standard library's logger is. The process has one of it,
// as of go-redis's: where tests run several commands, the latest has it.
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

// release lets go of the command's stream, which is not written to any more
// once the command is over. The standard library's lines, should there be any
// more, go to the process's stderr then, with the same care.
func (f *logFlags) release() {
	stdLog.mu.Lock()
	defer stdLog.mu.Unlock()
	if stdLog.owner == f {
		stdLog.owner = nil
		redirectStdLog(f.build(os.Stderr))
	}
}

// redirectStdLog sends what is written with package log to zap: net/http does,
// where no caller can be told.
func redirectStdLog(log *zap.Logger) {
	log = asynqx.Sampled(log.Named("net")).WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return unquoting{core} }))
	_, _ = zap.RedirectStdLogAt(log, zapcore.WarnLevel) // fails on unknown levels only
}

// unquoting cuts off what net/http quotes of a server's bytes: "Unsolicited
// response received on idle HTTP channel starting with …". A server may send
// our own Authorization header back.
type unquoting struct{ zapcore.Core }

// With implements zapcore.Core.
func (c unquoting) With(fields []zapcore.Field) zapcore.Core { return unquoting{c.Core.With(fields)} }

// Check implements zapcore.Core. The entry that it hands on is the one that is
// written.
func (c unquoting) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	e.Message, _, _ = strings.Cut(e.Message, " starting with ")
	return c.Core.Check(e, ce)
}

// redisLogger sends go-redis's lines to zap. It writes only of trouble with
// connections, which the caller of the command sees as an error as well.
type redisLogger struct{ log *zap.SugaredLogger }

// Printf implements the logger interface of go-redis.
func (l redisLogger) Printf(_ context.Context, format string, v ...any) {
	l.log.Warn(strings.TrimSpace(fmt.Sprintf(format, v...)))
}
