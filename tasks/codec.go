package tasks

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// Version is the payload version that this package writes. It reads no other.
const Version = 1

// MaxPayload is the greatest size of a payload in bytes; a larger one is refused
// unread. A well-formed payload stays below 600.
const MaxPayload = 4096

// Intent is what the producer wanted beyond the task itself. The zero value
// means: enqueued at an unknown time, guarded, without a deadline or a batch.
type Intent struct {
	// EnqueuedAt is when the producer decided. Zero: the time is unknown, and the
	// guard against stale intents does not apply.
	EnqueuedAt time.Time
	// NotAfter is the time after which the task must not be carried out any
	// more. Zero: there is no such time.
	NotAfter time.Time
	// NoGuard switches the guard against stale intents off.
	NoGuard bool
	// BatchRef names the batch of the task, which is owed a receipt.
	BatchRef BatchRef
}

// FieldError says which member of a task is wrong, and what is expected.
type FieldError struct {
	// Field is the member's wire name, or "payload" for the payload as a whole.
	Field string
	// Problem says what is wrong. Error writes it after Field, as one sentence.
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + " " + e.Problem }

// ErrUnknownKind is returned for a kind that this version does not know. Test
// for it with errors.Is.
var ErrUnknownKind = errors.New("unknown kind")

// Decode reads a payload of the given kind. The error is ErrUnknownKind, or a
// *FieldError that names the wrong member.
func Decode(kind Kind, p []byte) (Task, Intent, error) {
	names, known := memberNames[kind]
	if !known {
		return nil, Intent{}, fmt.Errorf("%w %s: want one of %v", ErrUnknownKind, excerpt(string(kind)), Kinds())
	}
	if len(p) > MaxPayload {
		return nil, Intent{}, &FieldError{Field: "payload", Problem: fmt.Sprintf("is %d bytes long; want at most %d", len(p), MaxPayload)}
	}
	m, err := readObject(p, slices.Concat([]string{"v"}, names, []string{"batch", "index", "enqueued_at", "not_after", "no_guard"}))
	if err != nil {
		return nil, Intent{}, err
	}
	m.checkVersion()
	var t Task
	switch kind {
	case KindDeviceUnbind:
		t = DeviceUnbind{UserID: m.text("user_id"), DeviceID: m.text("device_id"), Listed: m.boolean("listed")}
	case KindLockRelease:
		t = LockRelease{UserID: m.text("user_id"), LockID: m.text("lock_id"), Evidence: SweepEvidence{
			Source: m.source(), ExpiredAt: m.time("expired_at"),
		}}
	case KindUserOffboard:
		t = UserOffboard{UserID: m.text("user_id")}
	case KindLockSweep:
		t = LockSweep{Source: m.source(), Grace: m.duration("grace"), Max: m.integer("max"), MaxShare: number(m, "max_share", "a number", json.Number.Float64), Force: m.boolean("force")}
	case KindBatchWebhook:
		t = BatchWebhook{BatchID: m.text("batch_id")}
	}
	in := Intent{EnqueuedAt: m.time("enqueued_at"), NotAfter: m.time("not_after"), NoGuard: m.boolean("no_guard"), BatchRef: m.batchRef()}
	if m.err != nil {
		return nil, Intent{}, m.err
	}
	if err := t.Validate(); err != nil {
		return nil, Intent{}, err
	}
	return t, in, nil
}

// memberNames are the names of the members that only this kind has.
var memberNames = map[Kind][]string{
	KindDeviceUnbind: {"user_id", "device_id", "listed"},
	KindLockRelease:  {"user_id", "lock_id", "source", "expired_at"},
	KindUserOffboard: {"user_id"},
	KindLockSweep:    {"source", "grace", "max", "max_share", "force"},
	KindBatchWebhook: {"batch_id"},
}

// readObject reads one flat JSON object that has only members of these names.
// encoding/json alone would accept a member that is given twice, and names in
// any case.
func readObject(p []byte, names []string) (*members, error) {
	dec := json.NewDecoder(bytes.NewReader(p))
	dec.UseNumber()
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, &FieldError{Field: "payload", Problem: "is not a JSON object"}
	}
	values := make(map[string]any, len(names))
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name, _ := tok.(string) // inside an object the decoder yields names as strings
		if !slices.Contains(names, name) {
			return nil, &FieldError{Field: excerpt(name), Problem: fmt.Sprintf("is not a member of this kind; want %v", names)}
		}
		if _, twice := values[name]; twice {
			return nil, &FieldError{Field: name, Problem: "is given twice"}
		}
		value, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		if _, nested := value.(json.Delim); nested {
			return nil, &FieldError{Field: name, Problem: "is an object or a list; want a plain value"}
		}
		values[name] = value
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, notJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, &FieldError{Field: "payload", Problem: "has more text after the JSON object"}
	}
	return &members{values: values}, nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FieldError{Field: "payload", Problem: "ends in the middle of the JSON object"}
	}
	return &FieldError{Field: "payload", Problem: "is not JSON: " + err.Error()}
}

// members are the members of a JSON object. Each method reads one of them. The
// first problem that they meet is kept in err. Except for text, a method returns
// the zero value for a member that is not there.
type members struct {
	values map[string]any
	err    error
}

func (m *members) keep(err error) { m.err = cmp.Or(m.err, err) }

func (m *members) fail(name, format string, args ...any) {
	m.keep(&FieldError{Field: name, Problem: fmt.Sprintf(format, args...)})
}

func (m *members) has(name string) bool {
	_, there := m.values[name]
	return there
}

func (m *members) checkVersion() {
	v, there := m.values["v"]
	if !there {
		m.fail("v", "is missing; want %d", Version)
	} else if v != json.Number(strconv.Itoa(Version)) {
		m.fail("v", "is %s; this version reads %d", excerpt(fmt.Sprint(v)), Version)
	}
}

// text reads a string that must be there.
func (m *members) text(name string) string {
	v, there := m.values[name]
	s, ok := v.(string)
	switch {
	case !there:
		m.fail(name, "is missing")
	case !ok:
		m.fail(name, "is %s; want a string", jsonType(v))
	}
	return s
}

func (m *members) boolean(name string) bool {
	b, ok := m.values[name].(bool)
	if !ok && m.has(name) {
		m.fail(name, "is %s; want true or false", jsonType(m.values[name]))
	}
	return b
}

// number reads a number with parse, which accepts what want says.
func number[T int64 | float64](m *members, name, want string, parse func(json.Number) (T, error)) T {
	if !m.has(name) {
		return 0
	}
	text, _ := m.values[name].(json.Number)
	n, err := parse(text)
	if err != nil {
		m.fail(name, "is %s; want %s", excerpt(fmt.Sprint(m.values[name])), want)
	}
	return n
}

func (m *members) integer(name string) int64 {
	return number(m, name, "a whole number", json.Number.Int64)
}

func (m *members) duration(name string) time.Duration {
	if !m.has(name) {
		return 0
	}
	s := m.text(name)
	d, err := time.ParseDuration(s)
	if err != nil {
		m.fail(name, "is %s; want a duration such as 2m0s", excerpt(s))
	}
	return d
}

func (m *members) time(name string) time.Time {
	if !m.has(name) {
		return time.Time{}
	}
	s := m.text(name)
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.IsZero() || t.Year() > maxYear {
		m.fail(name, "is %s; want a time such as 2026-01-31T09:30:00Z", excerpt(s))
	}
	return t.UTC()
}

const maxYear = 9999 // RFC 3339 has four digits for the year

// source reads a source. An empty one is refused: to name no source, the member
// is left out.
func (m *members) source() SourceKind {
	if !m.has("source") {
		return ""
	}
	s := SourceKind(m.text("source"))
	m.keep(s.validate())
	return s
}

// batchRef reads the members batch and index: both or neither must be there.
func (m *members) batchRef() BatchRef {
	if !m.has("batch") && !m.has("index") {
		return BatchRef{}
	}
	r := BatchRef{Batch: m.text("batch"), Index: m.integer("index")}
	if !m.has("index") {
		m.fail("index", "is missing; a task of a batch has one")
	}
	m.keep(r.validate())
	return r
}

func (r BatchRef) validate() error {
	if err := ValidateBatchID(r.Batch); err != nil {
		return err
	}
	if r.Index < 0 || r.Index > MaxIndex {
		return &FieldError{Field: "index", Problem: fmt.Sprintf("is %d; want 0 to %d", r.Index, MaxIndex)}
	}
	return nil
}

func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	default:
		return "a string"
	}
}
