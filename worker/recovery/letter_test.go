package recovery

import (
	"testing"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// The letter of a task that has killed its workers stays in the task's trace.
func TestLetter_KeepsTheTrace(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	it := item{id: "id", msg: asynqx.Message{Kind: "device:unbind", Headers: map[string]string{"traceparent": parent, asynqx.SuspectHeader: "1"}}}
	letter := it.letter(queue{name: tasks.QueueUnbind}, tasks.Crashed, "crashed")
	if len(letter.Headers) != 1 || letter.Headers["traceparent"] != parent {
		t.Errorf("the letter has headers %v; want only traceparent", letter.Headers)
	}
}
