package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

type simulatorCmd struct {
	Addr        string   `env:"KOOWORKER_SIMULATOR_ADDR" default:"127.0.0.1:8089" placeholder:"HOST:PORT" help:"Listen here (${default})."`
	Auth        string   `env:"KOODRIVE_AUTH" enum:"none,token,app" default:"token" help:"How callers must authorize: ${enum} (${default}). The credential comes from KOODRIVE_TOKEN, without which any token will do, or KOODRIVE_APP_ID and KOODRIVE_APP_SECRET."`
	TokenFormat string   `name:"token-format" env:"KOODRIVE_TOKEN_FORMAT" default:"Bearer+{token}" placeholder:"FORMAT" help:"Authorization header that callers must send (${default})."`
	Fault       []string `env:"KOOWORKER_SIMULATOR_FAULTS" sep:"none" placeholder:"FAULT" help:"What goes wrong, such as throttled,retry-after=1s,rate=0.1; may be given several times. An unknown one lists them all."`
	RateLimit   float64  `name:"rate-limit" env:"KOOWORKER_SIMULATOR_RATE_LIMIT" placeholder:"N" help:"Requests a second, above which it throttles; 0 is no limit."`
	Users       int      `env:"KOOWORKER_SIMULATOR_USERS" placeholder:"N" help:"Begin with the users user-1 to user-N."`
	Devices     int      `env:"KOOWORKER_SIMULATOR_DEVICES" default:"3" placeholder:"N" help:"Devices that each of them has (${default})."`
}

// Run implements the command.
func (c *simulatorCmd) Run(a *app) error {
	log := a.flags.Log.logger(a.stderr)
	cfg := simulator.Config{
		Auth: simulator.Auth{
			Mode: c.Auth, TokenFormat: c.TokenFormat, Token: os.Getenv(envToken),
			AppID: os.Getenv(envAppID), AppSecret: os.Getenv(envAppSecret),
		},
		RateLimit: c.RateLimit,
	}
	if c.Users < 0 || c.Devices < 0 {
		return usagef("--users and --devices: want 0 or more")
	}
	for _, text := range c.Fault {
		fault, err := simulator.ParseFault(text)
		if err != nil {
			return usagef("--fault: %w", err)
		}
		cfg.Faults = append(cfg.Faults, fault)
	}
	sim, err := simulator.New(cfg)
	if err != nil {
		return usageError{err}
	}
	for u := range c.Users {
		for range c.Devices {
			sim.Bind(fmt.Sprintf("user-%d", u+1), simulator.Device{})
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", sim)
	mux.Handle("/_sim/", http.StripPrefix("/_sim", sim.Control()))
	served, err := serveHTTP(a.ctx, c.Addr, mux)
	if err != nil {
		return usagef("--addr: %w", err)
	}
	say(a.stdout, "KooDrive simulator on http://%s (--koodrive-url); state, faults and requests under http://%s/_sim/\n", served.addr, served.addr)
	log.Info("simulator listens")
	return served.wait()
}

// httpService is an HTTP server that ends with its context.
type httpService struct {
	addr string
	done chan error
}

// serveHTTP listens, and serves until ctx ends.
func serveHTTP(ctx context.Context, addr string, handler http.Handler) (*httpService, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	s := &httpService{addr: listener.Addr().String(), done: make(chan error, 1)}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	}()
	go func() {
		err := server.Serve(listener)
		if errors.Is(err, http.ErrServerClosed) {
			<-stopped
			err = nil
		}
		s.done <- err
	}()
	return s, nil
}

func (s *httpService) wait() error { return <-s.done }
