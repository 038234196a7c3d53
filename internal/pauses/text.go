package pauses

import (
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// IsWhole reports whether all lanes of the queue have this pause.
func (g Group) IsWhole() bool { return len(g.Lanes) == len(tasks.LanesOf(g.Queue)) }

// String says what is paused, by whom, since when, until when, and why.
func (g Group) String() string {
	if all := len(tasks.LanesOf(g.Queue)); !g.IsWhole() {
		return fmt.Sprintf("%d of %d lanes of queue %s are paused %s", len(g.Lanes), all, g.Queue, g.Pause)
	}
	return g.Of(g.Queue)
}

// Of says the same of one queue, or of a lane of it.
func (p Pause) Of(queue string) string { return fmt.Sprintf("queue %s is paused %s", queue, p) }

// String says by whom a pause was made, since when, until when, and why.
func (p Pause) String() string {
	text := "by " + p.Maker()
	if !p.Since.IsZero() {
		text += " since " + p.Since.Local().Format(time.DateTime)
	}
	if p.Until.IsZero() {
		text += ", until somebody resumes it"
	} else {
		text += ", until " + p.Until.Local().Format(time.DateTime)
	}
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text
}

// Maker names who made a pause.
func (p Pause) Maker() string {
	if p.By == "" {
		return "asynqmon or another tool, not kooworker"
	}
	return p.By
}
