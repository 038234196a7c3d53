package monitoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/deadletter"
)

const (
	// maxMember is how many characters of one string of a payload are shown.
	maxMember = 500
	// maxPayload is how many bytes of a payload are shown. The UI shows it on each row
	// of a table.
	maxPayload = 4000
)

// shownLetter is what an operator sees of a dead letter's envelope: the cause first,
// and the task's own payload as the object that it is, not as a string within a
// string.
type shownLetter struct {
	Reason     tasks.Reason `json:"reason"`
	Error      string       `json:"error"`
	Attempts   int          `json:"attempts"`
	DeadAt     time.Time    `json:"dead_at"`
	EnqueuedAt time.Time    `json:"enqueued_at,omitzero"`
	UserID     string       `json:"user_id,omitempty"`
	Target     string       `json:"target,omitempty"`
	Batch      string       `json:"batch,omitempty"`
	Queue      string       `json:"queue"`
	Task       any          `json:"task"`
}

// formatPayload returns the payload of a task as the UI shows it: JSON if it is JSON,
// which the UI indents. It also serves for results.
func formatPayload(kind string, payload []byte) string {
	if len(payload) == 0 {
		return ""
	}
	l := deadletter.Decode("", kind, payload)
	if isEnvelope := !bytes.Equal(l.Payload, payload); isEnvelope {
		return toJSON(shownLetter{
			Reason: tasks.Reason(member(string(l.Reason))), Error: member(l.Error), Attempts: l.Attempts, DeadAt: l.DeadAt.Truncate(time.Second), EnqueuedAt: l.EnqueuedAt.Truncate(time.Second),
			UserID: member(l.UserID), Target: member(l.Target), Batch: member(l.Batch), Queue: member(l.Queue), Task: harmless(l.Payload),
		})
	}
	if text, ok := harmless(payload).(string); ok {
		return text
	}
	return toJSON(harmless(payload))
}

func member(text string) string { return visible(text, maxMember) }

// harmless returns the value of a JSON text with all its strings made visible. What is not
// JSON it returns as one string.
func harmless(data []byte) any {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var value any
	if err := dec.Decode(&value); err == nil && isAtEnd(dec) {
		if _, isText := value.(string); !isText {
			return mapStrings(value, member)
		}
	}
	if !utf8.Valid(data) {
		const shown = 64
		return fmt.Sprintf("%d bytes that are no text: %x", len(data), data[:min(len(data), shown)])
	}
	return visible(string(data), maxText)
}

func isAtEnd(dec *json.Decoder) bool {
	_, err := dec.Token()
	return errors.Is(err, io.EOF)
}

// mapStrings changes all strings of a JSON value, the names of members included.
func mapStrings(value any, change func(string) string) any {
	switch v := value.(type) {
	case string:
		return change(v)
	case []any:
		for i := range v {
			v[i] = mapStrings(v[i], change)
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[change(name)] = mapStrings(member, change)
		}
		return out
	}
	return value
}

// toJSON returns a value as JSON, or its beginning if it is very long.
func toJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return "cannot be shown: " + visible(err.Error(), maxText)
	}
	if len(text) > maxPayload {
		return visible(string(text), maxPayload)
	}
	return string(text)
}
