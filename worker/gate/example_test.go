package gate_test

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

func ExampleGate_Acquire() {
	g, err := gate.New(gate.Config{
		MaxInFlight:         8,
		MaxWait:             50 * time.Millisecond,
		ConsecutiveFailures: 3,
		MinFailureTime:      time.Nanosecond,
		OnChange: func(from, to gate.State, reason tasks.Reason) {
			fmt.Printf("breaker: %s, was %s: %s\n", to, from, reason)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer g.Stop()

	for range 4 {
		try(context.Background(), g, func() string { return "503 Service Unavailable" })
	}
	// Output:
	// an attempt: 503 Service Unavailable
	// an attempt: 503 Service Unavailable
	// breaker: open, was closed: upstream
	// put back, not charged: 503 Service Unavailable
	// put back, not called: upstream by breaker
}

// try makes a call as a job does.
func try(ctx context.Context, g *gate.Gate, call func() string) {
	permit, refusal := g.Acquire(ctx)
	if refusal != nil {
		fmt.Println("put back, not called:", refusal.Reason, "by", refusal.Cause)
		return
	}
	defer permit.Close() // reports a panic of the call
	answer := call()
	if refusal := permit.Report(ctx, gate.Answer{Reason: tasks.Upstream}); refusal != nil {
		fmt.Println("put back, not charged:", answer)
		return
	}
	fmt.Println("an attempt:", answer)
}
