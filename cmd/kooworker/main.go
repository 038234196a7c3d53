// Command kooworker unbinds devices and releases backup locks at Huawei Cloud
// KooDrive, reliably and in bulk. Producers enqueue tasks, workers carry them out,
// and tasks that fail for good wait in a dead-letter queue.
//
// This package has one file for each subcommand: it turns flags and environment
// into configurations, calls a package of this module, and prints the result. What a
// subcommand needs beyond that is in the packages below internal.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // time zones for systems that have none, such as a container

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/terminal"
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	interrupted, stopInterrupts := signal.NotifyContext(context.Background(), os.Interrupt)
	terminated, stopTerms := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		asked := interrupted
		select {
		case <-interrupted.Done():
		case <-terminated.Done():
			asked = terminated
		}
		stopInterrupts() // the first signal asks; the second one ends all commands but a worker at once
		stopTerms()
		if asked == interrupted {
			terminal.EraseInterrupt(os.Stderr) // before any command says something
		}
		cancel(context.Cause(asked))
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// workerSignals handles, until stop, the signals that would end a worker at once and
// leave its tasks to their leases. SIGHUP renews secrets, and the second signal to stop closes hurry; further ones do nothing.
func workerSignals(log *zap.Logger, renew func()) (hurry <-chan struct{}, stop func()) {
	signals, hurried := make(chan os.Signal, 8), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP, os.Interrupt, syscall.SIGTERM)
	go func() {
		stops := 0
		for sig := range signals {
			if sig == syscall.SIGHUP {
				renew()
				log.Info("SIGHUP: files of secrets are read again when they are next needed")
				continue
			}
			if stops++; stops == 2 {
				close(hurried)
			}
			if stops >= 2 && sig == os.Interrupt {
				terminal.EraseInterrupt(os.Stderr)
			}
		}
	}()
	return hurried, func() { signal.Stop(signals); close(signals) }
}
