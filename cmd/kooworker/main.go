// Command kooworker unbinds devices and releases backup locks at Huawei Cloud
// KooDrive, reliably and in bulk: producers enqueue, workers carry out, and
// what fails for good waits in a dead-letter queue.
//
// It only joins the packages of this module: flags and environment become
// configurations, results become exit codes and output.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // zones, where the system has none: in a container
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // the first signal asks, a second one ends the process at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
