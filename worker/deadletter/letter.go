package deadletter

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/tasks"
)

// Letter is one dead task.
type Letter struct {
	// ID is the asynq task ID in the dead-letter queue. It is also the ID that the
	// task had when it died, unless another letter had that ID already.
	ID string
	// Kind is the task's kind, which may be unknown.
	Kind tasks.Kind
	// Queue is the queue it died in.
	Queue string
	// Payload is the task's payload, byte for byte.
	Payload []byte
	// UserID and Target name the user and the device or lock. If the payload could not be
	// decoded, the target is empty, and the user is the one that the payload seems to name.
	UserID, Target string
	// Reason and Error say why it died, at the latest attempt. Error is one line
	// that begins with the reason.
	Reason tasks.Reason
	Error  string
	// Attempts counts the attempts charged to it, replays included.
	Attempts int
	// EnqueuedAt is when the producer decided; zero if unknown.
	EnqueuedAt time.Time
	// DeadAt is when it died, at the latest attempt.
	DeadAt time.Time
	// Batch is the batch it belongs to; empty for a task enqueued by itself.
	Batch string
	// Headers are stored in the message of the letter, and are not read back with it: they
	// say to which trace a replay belongs.
	Headers map[string]string
}

// Task decodes the letter's payload.
func (l Letter) Task() (tasks.Task, tasks.Intent, error) {
	return tasks.Decode(l.Kind, l.Payload)
}

// Receipt returns the receipt that tells of an outcome of the letter. It is not ok if the
// letter cannot be decoded, or is about no user.
func (l Letter) Receipt(outcome tasks.Outcome) (receipt tasks.Receipt, ok bool) {
	task, in, err := l.Task()
	if err != nil || task.User() == "" {
		return tasks.Receipt{}, false
	}
	receipt = tasks.Receipt{
		BatchRef: in.BatchRef, Kind: l.Kind, UserID: task.User(), Target: task.Target(),
		Outcome: outcome, Reason: l.Reason, Attempts: l.Attempts,
	}
	switch {
	case in.BatchRef.IsSet(): // the receipts of a batch have no source
	case outcome == tasks.Dead:
		receipt.Source = tasks.SourceOfSingle(l.ID)
	default:
		receipt.Source = tasks.FromDeadLetter
	}
	return receipt, true
}

// DecodeTask decodes the task of a letter, given the type and the payload that the letter has
// in the dead-letter queue.
func DecodeTask(kind string, data []byte) (tasks.Task, tasks.Intent, error) {
	return Decode("", kind, data).Task()
}

// envelopeVersion is the version of the envelope. An envelope that cannot be read
// is shown as bytes, and never dropped.
const envelopeVersion = 1

// envelope is a letter's payload in the dead-letter queue. The dead task's own
// payload is kept byte for byte: as a string if it is UTF-8, as every payload of
// ours is, and otherwise in base64.
type envelope struct {
	Version    int          `json:"v"`
	Reason     tasks.Reason `json:"reason"`
	Error      string       `json:"error"`
	Attempts   int          `json:"attempts"`
	DeadAt     time.Time    `json:"dead_at"`
	EnqueuedAt time.Time    `json:"enqueued_at,omitzero"`
	UserID     string       `json:"user_id,omitempty"`
	Target     string       `json:"target,omitempty"`
	Queue      string       `json:"queue"`
	Batch      string       `json:"batch,omitempty"`
	Payload    *string      `json:"payload,omitempty"`
	Base64     *string      `json:"payload_base64,omitempty"`
}

// encode writes the envelope.
func (l Letter) encode() ([]byte, error) {
	e := envelope{
		Version: envelopeVersion, Reason: l.Reason, Error: l.Error, Attempts: l.Attempts,
		DeadAt: l.DeadAt.UTC(), EnqueuedAt: l.EnqueuedAt.UTC(),
		UserID: l.UserID, Target: l.Target, Queue: l.Queue, Batch: l.Batch,
	}
	if s := string(l.Payload); utf8.ValidString(s) {
		e.Payload = &s
	} else {
		s := base64.StdEncoding.EncodeToString(l.Payload)
		e.Base64 = &s
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("encode dead letter %s: %w", l.ID, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Decode reads a letter from the type and the payload of a task in the dead-letter
// queue. It does not fail. From bytes that are no envelope it makes a letter that
// has them as its payload, and the reason undecodable.
func Decode(id, kind string, data []byte) Letter {
	var e envelope
	err := json.Unmarshal(data, &e)
	payload, ok := e.payload()
	if err != nil || e.Version != envelopeVersion || !ok {
		return Letter{
			ID: id, Kind: tasks.Kind(kind), Queue: tasks.QueueDeadLetter, Payload: data, UserID: userIn(data), Reason: tasks.Undecodable,
			Error: string(tasks.Undecodable) + ": not a dead letter's envelope",
		}
	}
	return Letter{
		ID: id, Kind: tasks.Kind(kind), Queue: e.Queue, Payload: payload, UserID: cmp.Or(e.UserID, userIn(payload)), Target: e.Target, Batch: e.Batch,
		Reason: e.Reason, Error: e.Error, Attempts: e.Attempts, EnqueuedAt: e.EnqueuedAt, DeadAt: e.DeadAt,
	}
}

// userIn returns the user that a payload names which may be no task: a JSON object whose
// user_id is a string or a number. It is "" if there is none.
func userIn(payload []byte) string {
	var object struct {
		UserID json.RawMessage `json:"user_id"`
	}
	if json.Unmarshal(payload, &object) != nil || len(object.UserID) == 0 {
		return ""
	}
	var text string
	var number json.Number
	if json.Unmarshal(object.UserID, &text) != nil && json.Unmarshal(object.UserID, &number) != nil {
		return ""
	}
	const most = 256 // bytes; a user's id has at most half as many
	if text = strings.TrimSpace(cmp.Or(text, number.String())); len(text) > most {
		return ""
	}
	return text
}

// payload returns the dead task's own payload. It is not ok unless the envelope
// has exactly one.
func (e envelope) payload() (data []byte, ok bool) {
	switch {
	case e.Payload != nil && e.Base64 == nil:
		return []byte(*e.Payload), true
	case e.Base64 != nil && e.Payload == nil:
		data, err := base64.StdEncoding.DecodeString(*e.Base64)
		return data, err == nil
	default:
		return nil, false
	}
}

// withReplays returns the letter with what asynq's message tells of its replays.
func (l Letter) withReplays(m asynqx.Message) Letter {
	failedAt := time.Unix(m.LastFailedAt, 0).UTC()
	if l.DeadAt.IsZero() && m.LastFailedAt > 0 {
		l.DeadAt = failedAt
	}
	replays := int(m.Retried) - 1
	if replays <= 0 {
		return l
	}
	l.Attempts += replays
	l.DeadAt = failedAt
	// If a worker crashed during the replay the error says so. That is about the
	// worker, and the reason of the task stays.
	if reason, _, _ := strings.Cut(m.ErrorMsg, ":"); tasks.Reason(reason).Known() && tasks.Reason(reason) != tasks.Crashed {
		l.Reason, l.Error = tasks.Reason(reason), m.ErrorMsg
	}
	return l
}
