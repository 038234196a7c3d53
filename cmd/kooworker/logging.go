package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kooworker/kooworker/worker"
)

type logFlags struct {
	LogLevel  string `name:"log-level" default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"Least level that is written: ${enum} (${default})."`
	LogFormat string `name:"log-format" default:"auto" enum:"auto,json,console" placeholder:"FORMAT" help:"${enum}; auto is console on a terminal and json elsewhere (${default})."`
}

// logger writes to the given stream, and takes go-redis's own lines along.
func (f logFlags) logger(w io.Writer) *zap.Logger {
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
	log := zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level))
	redis.SetLogger(redisLogger{worker.Sampled(log.Named("redis")).Sugar()})
	return log
}

// quiet is for commands that end with their own word about a failure: the
// lines of go-redis before it only show at debug level.
func (f logFlags) quiet(w io.Writer) {
	log := f.logger(w)
	if f.LogLevel != "debug" {
		log = zap.NewNop()
	}
	redis.SetLogger(redisLogger{log.Named("redis").Sugar()})
}

// redisLogger sends go-redis's lines to zap. It writes only of trouble with
// connections, which the caller of the command sees as an error as well.
type redisLogger struct{ log *zap.SugaredLogger }

// Printf implements the logger interface of go-redis.
func (l redisLogger) Printf(_ context.Context, format string, v ...any) {
	l.log.Warn(strings.TrimSpace(fmt.Sprintf(format, v...)))
}
