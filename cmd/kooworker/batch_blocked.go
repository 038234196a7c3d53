package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/forecast"
	"github.com/kooworker/kooworker/worker/overview"
)

// forecastEvery is the time between two forecasts while a command waits for a batch.
const forecastEvery = 5 * time.Second

// blockedNotice tells those who wait for a batch why nothing of it runs.
type blockedNotice struct {
	at   time.Time // of the latest look
	said overview.Cause
}

// look looks from time to time, and writes a line for each change.
func (n *blockedNotice) look(e *env, forecasts *forecast.Forecaster, b tasks.BatchStats) {
	if b.Queued == 0 || time.Since(n.at) < forecastEvery {
		return
	}
	n.at = time.Now()
	cause, err := forecasts.Blocked(e.ctx, b.ID)
	switch {
	case err != nil || cause.Text == n.said.Text:
		return
	case cause.Text == "":
		fmt.Fprintf(e.stderr, "batch %s goes on\n", b.ID)
	default:
		fmt.Fprintf(e.stderr, "batch %s waits: %s\nhint: %s\n", b.ID, cause.Text, cause.Hint)
	}
	n.said = cause
}

// explain gives the error of a wait that has timed out a better hint, if it is known why
// nothing of the batch runs.
func explain(err error, cause overview.Cause) error {
	timedOut, ok := errors.AsType[commandError](err)
	if !ok || timedOut.code != exitTimeout || cause.Text == "" {
		return err
	}
	timedOut.hint = fmt.Sprintf("%s: %s", cause.Text, cause.Hint)
	return timedOut
}

// awayNotice tells those who wait for a batch that Redis does not answer, once each time.
type awayNotice struct {
	id     string
	out    io.Writer
	isAway bool
}

// tell returns what it says, which may change while Redis is away.
func (n *awayNotice) tell(why error, since time.Time) string {
	text := awayText(why, since)
	if !n.isAway {
		n.isAway = true
		fmt.Fprintf(n.out, "batch %s: %s\nhint: %s\n", n.id, text, overview.Unreachable(why).Hint)
	}
	return text
}

// back says that Redis is back, and reports whether it was away.
func (n *awayNotice) back() (wasAway bool) {
	if wasAway = n.isAway; wasAway {
		n.isAway = false
		fmt.Fprintf(n.out, "batch %s: Redis answers again\n", n.id)
	}
	return wasAway
}

// awayText says that Redis does not answer, as kooworker status does.
func awayText(why error, since time.Time) string {
	return overview.Unreachable(why).Text + ", since " + since.Local().Format(time.DateTime)
}
