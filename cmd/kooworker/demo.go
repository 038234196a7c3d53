package main

import (
	"fmt"

	"github.com/kooworker/kooworker/cmd/kooworker/internal/demo"
)

type demoCmd struct {
	Tasks int  `env:"KOOWORKER_DEMO_TASKS" default:"1200" placeholder:"N" help:"Tasks to enqueue, five unbinds to each release (${default})."`
	Stay  bool `env:"KOOWORKER_DEMO_STAY" help:"Keep Redis, the simulator, the worker and a dashboard up until Ctrl-C."`
	Logs  bool `env:"KOOWORKER_DEMO_LOGS" help:"Show the worker's log, on stderr."`
}

const nextCommands = `
Next:
  kooworker demo --stay          run the demo again, and look around
  kooworker worker --help        run a worker against your Redis and KooDrive
  kooworker enqueue --help       put tasks into the queue
  kooworker dead --help          handle tasks that failed for good
`

// Run implements the command.
func (c *demoCmd) Run(e *env) error {
	o := demo.Options{Tasks: c.Tasks, Stay: c.Stay, Out: e.stdout}
	if err := o.Validate(); err != nil {
		return usageError(err)
	}
	if c.Logs {
		o.Log = e.flags.Log.logger(e.stderr)
	}
	if _, err := demo.Run(e.ctx, o); err != nil {
		return err
	}
	if !c.Stay {
		fmt.Fprint(e.stdout, nextCommands)
	}
	return nil
}
