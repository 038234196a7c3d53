package enqueue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

// readItem is an item of the input.
type readItem struct {
	Item

	due    time.Time    // the item's own time to run, zero if it has none
	digest batch.Digest // of the input up to here
	end    error        // an error that ends the input; nil if this is an item
}

// readInput reads the input in its own goroutine, since the input may block. It
// stops after an error that ends the input.
//
// A rejected item may be a line of a megabyte, and thousands of items are on their
// way to Redis at a time. So a rejected item is reported here, and only its number
// goes on: the batch records that the item was rejected. Any other item is a valid
// task, which is small.
func (b *bulk) readInput(ctx context.Context, input iter.Seq2[tasks.Task, error]) <-chan readItem {
	items := make(chan readItem, readAhead)
	go func() {
		defer close(items)
		var digest batch.RollingDigest
		n := int64(0)
		for task, err := range input {
			var due time.Time
			if timed, ok := task.(tasks.Timed); ok {
				task, due = timed.Task, timed.RunAt
			}
			next := readItem{Item: Item{Number: n, Task: task}, due: due}
			if err != nil && !isRejection(err) {
				next.end = err
			} else if bad := b.validate(task, due, err); bad != nil {
				digest.AddRejected(rejectedText(task, err))
				b.report(Item{Number: n, Status: Rejected, Err: bad})
				next.Item = Item{Number: n, Status: Rejected}
			} else {
				digest.AddTask(task)
			}
			next.digest = digest.Digest()
			n++
			select {
			case items <- next:
			case <-ctx.Done():
				return
			}
			if next.end != nil {
				return
			}
		}
	}()
	return items
}

// validate returns what is wrong with an item; err is what the input says.
func (b *bulk) validate(task tasks.Task, due time.Time, err error) error {
	if err != nil {
		return err
	}
	if _, twice := task.(tasks.Timed); twice || task == nil {
		return &tasks.FieldError{Field: "run_at", Problem: "belongs to no task, or to a task that has one already; want a task with one time"}
	}
	if time.Until(due) == math.MaxInt64 {
		return &tasks.FieldError{Field: "run_at", Problem: fmt.Sprintf("is %s; want a time in less than 290 years", due.Format(time.RFC3339))}
	}
	if !due.IsZero() && !b.deadline.IsZero() && !b.deadline.After(due) {
		return &tasks.FieldError{Field: "run_at", Problem: fmt.Sprintf("is %s; want a time before the deadline of the tasks, %s", due.Format(time.RFC3339), b.deadline.Format(time.RFC3339))}
	}
	if err := task.Validate(); err != nil || b.anyID {
		return err
	}
	return tasks.CheckPlausible(task)
}

// isRejection reports whether an error of the input is about one item only.
func isRejection(err error) bool {
	return hasType[*records.LineError](err) || hasType[*tasks.FieldError](err)
}

// rejectedText returns the text that tells a rejected item from others. Batches that
// are resumed depend on it; err is what the input says, and nil if only Validate
// refuses the task.
func rejectedText(task tasks.Task, err error) string {
	if line, ok := errors.AsType[*records.LineError](err); ok {
		return line.Text
	}
	return fmt.Sprintf("%v %v", task, err)
}
