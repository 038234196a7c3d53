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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // the first signal asks; the second one ends the process at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
