package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/redisurl"
	"github.com/kooworker/kooworker/cmd/kooworker/internal/telemetry"
	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
	"github.com/kooworker/kooworker/enqueue"
	"github.com/kooworker/kooworker/internal/asynqx"
)

// env is what a command works with.
type env struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the command
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	flags  *cli

	clients []redis.UniversalClient // are closed when the command ends
	traces  *telemetry.Traces       // likewise; nil until something is traced
}

// ours matches the environment variables of this program.
var ours = regexp.MustCompile(`^(KOODRIVE_|KOOWORKER_|REDIS_URL=|REDIS_CLUSTER_NODES=|REDIS_PASSWORD_FILE=)`)

// tidyEnvironment unsets our variables that are empty, which is how compose files and
// charts leave one out. Its error names a variable with what only a shell takes off.
func tidyEnvironment() (err error) {
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case !ours.MatchString(variable):
		case value == "":
			_ = os.Unsetenv(name)
		case strings.Trim(value, "\r") != value:
			err = usagef("%s: the value has a carriage return around it; want an env file with the line ends of Unix", name)
		case len(value) > 1 && strings.Contains(`"'`, value[:1]) && strings.HasSuffix(value, value[:1]):
			err = usagef("%s: the value has quotes around it; want none, because only a shell takes them off", name)
		}
	}
	return err
}

// redisFlags are a redisurl.Address.
type redisFlags struct {
	URL     string   `name:"redis-url" env:"REDIS_URL" default:"redis://127.0.0.1:6379/0" placeholder:"URL" help:"Redis: redis://, rediss://, redis-socket://PATH or redis-sentinel://HOST,HOST?master=NAME (${default})."`
	Cluster []string `name:"redis-cluster" env:"REDIS_CLUSTER_NODES" placeholder:"HOST:PORT" help:"Nodes of a Redis cluster, separated by commas. They replace the host in the URL; the URL's user and password are used."`

	PasswordFile string `name:"redis-password-file" env:"REDIS_PASSWORD_FILE" placeholder:"FILE" help:"File with the password of the user in --redis-url. It is read again for each new connection."`
}

// smallPool is the number of connections of a command that does one thing at a time.
const smallPool = 4

// redis returns a client, which is closed when the command ends.
func (e *env) redis(poolSize int) (redis.UniversalClient, error) {
	client, err := redisurl.Address(e.flags.Redis).Client(poolSize)
	if err != nil {
		return nil, usageError(err)
	}
	e.clients = append(e.clients, client)
	return client, nil
}

// storeOf returns a function with which kong provides the store that a Run method has
// as a parameter.
func storeOf[T any](newStore func(redis.UniversalClient) T) func(*env) (T, error) {
	return func(e *env) (store T, err error) {
		rdb, err := e.redis(smallPool)
		if err != nil {
			return store, err
		}
		return newStore(rdb), nil
	}
}

// tracing returns what makes the spans of this command, nil if there are none. log gets
// what is wrong with them.
func (e *env) tracing(log *zap.Logger, o telemetry.Config) oteltrace.TracerProvider {
	o.Version, o.Logger = build().Version, asynqx.Sampled(log.Named("traces"))
	traces, err := telemetry.Start(e.ctx, o)
	if err != nil {
		log.Error("there are no traces", zap.Error(err))
	}
	e.traces = traces
	return traces.Provider()
}

// flushTimeout is how long a command waits for the collector of traces at its end.
const flushTimeout = time.Second

// producer returns a client that enqueues. It traces what it enqueues as a child of the span
// that the environment names, if it does.
func (e *env) producer(cfg enqueue.Config) (*enqueue.Client, error) {
	e.ctx = telemetry.WithParent(e.ctx)
	cfg.TracerProvider = e.tracing(e.flags.Log.commandLogger(e.stderr), telemetry.Config{FlushTimeout: flushTimeout})
	return enqueue.New(cfg)
}

func (e *env) close() {
	if e.traces != nil {
		e.traces.Close()
	}
	for _, client := range e.clients {
		_ = client.Close()
	}
}

// writeJSON writes one value as one line. An error counts, because a script must
// know when its input is incomplete.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// writeJSONLines writes a line for each item, through a buffer or at once; it is always at
// once on a terminal, where an interrupt must not leave half a line. line makes what it
// holds. After an error of items, the lines before it are written, and explain makes the
// error to return.
func writeJSONLines[T any](w io.Writer, atOnce bool, items iter.Seq2[T, error], line func(T) any, explain func(error) error) error {
	buffer := bufio.NewWriter(w)
	if !atOnce && !terminal.IsTerminal(w) {
		w = buffer
	}
	for item, err := range items {
		if err != nil {
			_ = buffer.Flush()
			return explain(err)
		}
		if err := writeJSON(w, line(item)); err != nil {
			return err
		}
	}
	if err := buffer.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
