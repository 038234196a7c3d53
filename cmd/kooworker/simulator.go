package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

type simulatorCmd struct {
	Addr        string   `env:"KOOWORKER_SIMULATOR_ADDR" default:"127.0.0.1:8089" placeholder:"HOST:PORT" help:"Listen here (${default})."`
	Auth        string   `env:"KOODRIVE_AUTH" enum:"none,token,app" default:"token" help:"How callers must authorize: ${enum} (${default}). The credential is in KOODRIVE_TOKEN, or in KOODRIVE_APP_ID and KOODRIVE_APP_SECRET. Without KOODRIVE_TOKEN any token is accepted."`
	TokenFormat string   `name:"token-format" env:"KOODRIVE_TOKEN_FORMAT" default:"Bearer+{token}" placeholder:"FORMAT" help:"Authorization header that callers must send (${default})."`
	Fault       []string `env:"KOOWORKER_SIMULATOR_FAULTS" sep:"none" placeholder:"FAULT" help:"What goes wrong, such as throttled,retry-after=1s,rate=0.1; may be given several times. The error for an unknown fault lists all faults."`
	Quota       []string `env:"KOOWORKER_SIMULATOR_QUOTAS" sep:";" placeholder:"QUOTA" help:"How many calls are granted: bucket:200/s,burst=20 or fixed:3000/m,tell=text+debug or sliding:10/10s,per-call. May be given several times, or several joined by a semicolon. The README describes the keys."`
	RateLimit   float64  `name:"rate-limit" env:"KOOWORKER_SIMULATOR_RATE_LIMIT" placeholder:"N" help:"Requests a second above which it throttles; 0 is no limit."`
	Users       int      `env:"KOOWORKER_SIMULATOR_USERS" placeholder:"N" help:"Start with the users user-1 to user-N."`
	Devices     int      `env:"KOOWORKER_SIMULATOR_DEVICES" default:"3" placeholder:"N" help:"Devices that each of them has (${default})."`
}

// Run implements the command.
func (c *simulatorCmd) Run(e *env) error {
	log := e.flags.Log.logger(e.stderr)
	cfg := simulator.Config{
		Auth: simulator.Auth{
			Mode: c.Auth, TokenFormat: c.TokenFormat, Token: os.Getenv("KOODRIVE_TOKEN"),
			AppID: os.Getenv("KOODRIVE_APP_ID"), AppSecret: os.Getenv("KOODRIVE_APP_SECRET"),
		},
		RateLimit: c.RateLimit,
	}
	if c.Users < 0 || c.Devices < 0 {
		return usagef("--users and --devices: want 0 or more")
	}
	for _, text := range c.Quota {
		quota, err := simulator.ParseQuota(text)
		if err != nil {
			return usagef("--quota: %w", err)
		}
		cfg.Quotas = append(cfg.Quotas, quota)
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
		return usageError(err)
	}
	for u := range c.Users {
		for range c.Devices {
			sim.Bind(fmt.Sprintf("user-%d", u+1), simulator.Device{})
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", sim)
	mux.Handle("/_sim/", http.StripPrefix("/_sim", sim.Control()))
	listener, err := (&net.ListenConfig{}).Listen(e.ctx, "tcp", c.Addr)
	if err != nil {
		return usagef("--addr: %w", err)
	}
	fmt.Fprintf(e.stdout, "The KooDrive simulator listens on http://%[1]s (--koodrive-url). Its state, faults, quotas and requests are under http://%[1]s/_sim/\n", listener.Addr())
	log.Info("simulator listens")
	err = serveHTTP(e.ctx, listener, mux)
	log.Info("simulator stopped")
	return err
}

// serveHTTP serves until ctx ends. Requests in flight have 2 s to end then.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	isShutDown := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(isShutDown)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(limited) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	if stop() { // ctx has not ended: the server has failed
		return err
	}
	<-isShutDown
	return nil
}
