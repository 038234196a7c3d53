package gate_test

import (
	"context"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/gate"
)

func ExampleGate_Do() {
	g, err := gate.New(gate.Config{
		MaxInFlight: 8,
		MaxWait:     50 * time.Millisecond,
		InARow:      3,
		Persist:     time.Nanosecond,
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
		var answer string
		refusal := g.Do(context.Background(), func(context.Context) gate.Answer {
			answer = "503 Service Unavailable"
			return gate.Answer{Reason: tasks.Upstream}
		})
		switch {
		case refusal == nil:
			fmt.Println("an attempt:", answer)
		case refusal.Called:
			fmt.Println("put back, not charged:", answer)
		default:
			fmt.Println("put back, not called:", refusal.Reason, "by", refusal.Cause)
		}
	}
	// Output:
	// an attempt: 503 Service Unavailable
	// an attempt: 503 Service Unavailable
	// breaker: open, was closed: upstream
	// put back, not charged: 503 Service Unavailable
	// put back, not called: upstream by breaker
}
