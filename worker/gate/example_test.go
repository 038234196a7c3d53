package gate_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

func ExampleGate_Acquire() {
	unavailable := gate.Answer{Reason: tasks.Upstream} // 503 Service Unavailable
	g, err := gate.New(gate.Config{
		MaxInFlight: 8,
		MaxWait:     50 * time.Millisecond,
		Check:       func(context.Context, string) gate.Answer { return unavailable },
		OnChange: func(kind gate.Kind, from, to gate.State, reason tasks.Reason) {
			fmt.Printf("breaker of %s: %s, was %s: %s\n", kind, to, from, reason)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer g.Stop()

	call := func() gate.Answer { return unavailable }
	var tasks sync.WaitGroup
	for i := range 3 {
		tasks.Go(func() {
			try(context.Background(), g, gate.Call{Kind: gate.Unbind, User: fmt.Sprint(i), Target: "device"}, call)
		})
	}
	tasks.Wait()
	try(context.Background(), g, gate.Call{Kind: gate.Unbind, User: "3", Target: "device"}, call)
	// Output:
	// breaker of unbind: open, was closed: upstream
	// put back, not charged: upstream
	// put back, not charged: upstream
	// put back, not charged: upstream
	// put back, not called: upstream by breaker
}

// try makes a call as a job does.
func try(ctx context.Context, g *gate.Gate, call gate.Call, do func() gate.Answer) {
	permit, refusal := g.Acquire(ctx, call)
	if refusal != nil {
		fmt.Println("put back, not called:", refusal.Reason, "by", refusal.Cause)
		return
	}
	defer permit.Close() // reports a panic of the call
	answer := do()
	if refusal := permit.Report(ctx, answer); refusal != nil {
		fmt.Println("put back, not charged:", answer.Reason)
		return
	}
	fmt.Println("an attempt:", answer.Reason)
}
