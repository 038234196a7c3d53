package tasks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// Version is the version of the payload that this package writes, and the only
// one that it reads.
const Version = 1

// MaxPayload is the size in bytes above which a payload is refused unread. A
// well-formed one stays below 600.
const MaxPayload = 4096

// Intent is what the producer wanted beyond the task itself. The zero value is
// an intent of unknown age without limits.
type Intent struct {
	// EnqueuedAt is when the producer decided. Zero: unknown, and the guard
	// against stale intents does not apply.
	EnqueuedAt time.Time
	// NotAfter is the time after which the task must not be carried out any
	// more. Zero: never too late.
	NotAfter time.Time
	// NoGuard switches the guard against stale intents off.
	NoGuard bool
	// BatchRef is the task's place in a batch, which is owed a receipt.
	BatchRef BatchRef
}

// FieldError says which member of a task is wrong, and what would be right.
type FieldError struct {
	// Field is the member's wire name, or "payload" for the whole.
	Field string
	// Problem continues the sentence that Field begins.
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + " " + e.Problem }

// ErrUnknownKind is returned for a kind that this version does not know. Test
// for it with errors.Is.
var ErrUnknownKind = errors.New("unknown kind")

// Decode reads a payload of the given kind. The error is ErrUnknownKind, or a
// *FieldError that names the offending member.
func Decode(kind Kind, p []byte) (Task, Intent, error) {
	ids, more, known := ownMembers(kind)
	if !known {
		return nil, Intent{}, fmt.Errorf("%w %s: want one of %v", ErrUnknownKind, excerpt(string(kind)), Kinds())
	}
	if len(p) > MaxPayload {
		return nil, Intent{}, &FieldError{Field: "payload", Problem: fmt.Sprintf("is %d bytes long; want at most %d", len(p), MaxPayload)}
	}
	allowed := slices.Concat([]string{"v"}, ids, more, []string{"batch", "index", "enqueued_at", "not_after", "no_guard"})
	members, err := readObject(p, allowed)
	if err != nil {
		return nil, Intent{}, err
	}
	if err := checkVersion(members); err != nil {
		return nil, Intent{}, err
	}
	var values [2]string
	for i, name := range ids {
		if values[i], err = stringMember(members, name); err != nil {
			return nil, Intent{}, err
		}
	}
	in, err := intentMembers(members)
	if err != nil {
		return nil, Intent{}, err
	}
	var t Task
	switch kind {
	case KindDeviceUnbind:
		t = DeviceUnbind{UserID: values[0], DeviceID: values[1]}
	case KindLockRelease:
		t, err = staleMembers(LockRelease{UserID: values[0], LockID: values[1]}, members)
	case KindLockSweep:
		t, err = sweepMembers(members)
	case KindUserOffboard:
		t = UserOffboard{UserID: values[0]}
	case KindBatchWebhook:
		t = BatchWebhook{BatchID: values[0]}
	}
	if err != nil {
		return nil, Intent{}, err
	}
	if err := t.Validate(); err != nil {
		return nil, Intent{}, err
	}
	return t, in, nil
}

// ownMembers are the names of the members that a kind has for itself: ids, at
// most two, that must be there, and more that may.
func ownMembers(kind Kind) (ids, more []string, known bool) {
	switch kind {
	case KindDeviceUnbind:
		return []string{"user_id", "device_id"}, nil, true
	case KindLockRelease:
		return []string{"user_id", "lock_id"}, []string{"source", "expired_at"}, true
	case KindUserOffboard:
		return []string{"user_id"}, nil, true
	case KindLockSweep:
		return nil, []string{"source", "grace", "max", "max_share", "force"}, true
	case KindBatchWebhook:
		return []string{"batch_id"}, nil, true
	default:
		return nil, nil, false
	}
}

func staleMembers(t LockRelease, members map[string]any) (Task, error) {
	var err error
	if t.Evidence.Source, err = sourceMember(members); err != nil {
		return nil, err
	}
	t.Evidence.ExpiredAt, err = timeMember(members, "expired_at")
	return t, err
}

// sourceMember is empty where it is not there; an empty one that is there names
// none.
func sourceMember(members map[string]any) (Source, error) {
	if _, there := members["source"]; !there {
		return "", nil
	}
	text, err := stringMember(members, "source")
	if err != nil {
		return "", err
	}
	return Source(text), Source(text).validate()
}

func sweepMembers(members map[string]any) (Task, error) {
	var t LockSweep
	var err error
	if t.Source, err = sourceMember(members); err != nil {
		return nil, err
	}
	if _, there := members["grace"]; there {
		text, err := stringMember(members, "grace")
		if err != nil {
			return nil, err
		}
		if t.Grace, err = time.ParseDuration(text); err != nil {
			return nil, &FieldError{Field: "grace", Problem: "is " + excerpt(text) + "; want a duration such as 2m0s"}
		}
	}
	if v, there := members["max"]; there {
		n, _ := v.(json.Number)
		if t.Max, err = strconv.ParseInt(n.String(), 10, 64); err != nil {
			return nil, &FieldError{Field: "max", Problem: "is " + excerpt(fmt.Sprint(v)) + "; want a whole number"}
		}
	}
	if v, there := members["max_share"]; there {
		n, _ := v.(json.Number)
		if t.MaxShare, err = strconv.ParseFloat(n.String(), 64); err != nil {
			return nil, &FieldError{Field: "max_share", Problem: "is " + excerpt(fmt.Sprint(v)) + "; want a number from 0 to 1"}
		}
	}
	if t.Force, err = boolMember(members, "force"); err != nil {
		return nil, err
	}
	return t, nil
}

// boolMember reads a member that is false where it is not there.
func boolMember(members map[string]any, name string) (bool, error) {
	v, there := members[name]
	if !there {
		return false, nil
	}
	b, ok := v.(bool)
	if !ok {
		return false, &FieldError{Field: name, Problem: "is " + jsonType(v) + "; want true or false"}
	}
	return b, nil
}

// readObject reads one flat JSON object whose members are among those allowed.
// encoding/json alone would accept a member twice, and its name in any case.
func readObject(p []byte, allowed []string) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(p))
	dec.UseNumber()
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, &FieldError{Field: "payload", Problem: "is not a JSON object"}
	}
	members := make(map[string]any, len(allowed))
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name, _ := tok.(string) // inside an object the decoder yields names as strings
		if !slices.Contains(allowed, name) {
			return nil, &FieldError{Field: excerpt(name), Problem: fmt.Sprintf("is not a member of this kind; want %v", allowed)}
		}
		if _, twice := members[name]; twice {
			return nil, &FieldError{Field: name, Problem: "is given twice"}
		}
		value, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		if _, nested := value.(json.Delim); nested {
			return nil, &FieldError{Field: name, Problem: "is an object or a list; want a plain value"}
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, notJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, &FieldError{Field: "payload", Problem: "goes on after the JSON object"}
	}
	return members, nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FieldError{Field: "payload", Problem: "ends in the middle of the JSON object"}
	}
	return &FieldError{Field: "payload", Problem: "is not JSON: " + err.Error()}
}

func checkVersion(members map[string]any) error {
	v, ok := members["v"]
	if !ok {
		return &FieldError{Field: "v", Problem: fmt.Sprintf("is missing; want %d", Version)}
	}
	n, ok := v.(json.Number)
	if !ok || n.String() != strconv.Itoa(Version) {
		return &FieldError{Field: "v", Problem: fmt.Sprintf("is %s; this version reads %d", excerpt(fmt.Sprint(v)), Version)}
	}
	return nil
}

func stringMember(members map[string]any, name string) (string, error) {
	v, ok := members[name]
	if !ok {
		return "", &FieldError{Field: name, Problem: "is missing"}
	}
	s, ok := v.(string)
	if !ok {
		return "", &FieldError{Field: name, Problem: "is " + jsonType(v) + "; want a string"}
	}
	return s, nil
}

func intentMembers(members map[string]any) (Intent, error) {
	var in Intent
	var err error
	if in.EnqueuedAt, err = timeMember(members, "enqueued_at"); err != nil {
		return Intent{}, err
	}
	if in.NotAfter, err = timeMember(members, "not_after"); err != nil {
		return Intent{}, err
	}
	if in.NoGuard, err = boolMember(members, "no_guard"); err != nil {
		return Intent{}, err
	}
	if in.BatchRef, err = placeMembers(members); err != nil {
		return Intent{}, err
	}
	return in, nil
}

// placeMembers reads a place: both of its members, or none.
func placeMembers(members map[string]any) (BatchRef, error) {
	index, hasIndex := members["index"]
	if _, hasBatch := members["batch"]; !hasBatch && !hasIndex {
		return BatchRef{}, nil
	}
	batch, err := stringMember(members, "batch")
	if err != nil {
		return BatchRef{}, err
	}
	if !hasIndex {
		return BatchRef{}, &FieldError{Field: "index", Problem: "is missing; a task of a batch has one"}
	}
	n, ok := index.(json.Number)
	if !ok {
		return BatchRef{}, &FieldError{Field: "index", Problem: "is " + jsonType(index) + "; want a number"}
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil {
		return BatchRef{}, &FieldError{Field: "index", Problem: "is " + excerpt(n.String()) + "; want a whole number"}
	}
	p := BatchRef{Batch: batch, Index: i}
	return p, p.validate()
}

func (p BatchRef) validate() error {
	if err := ValidateBatchID(p.Batch); err != nil {
		return err
	}
	if p.Index < 0 || p.Index > MaxIndex {
		return &FieldError{Field: "index", Problem: fmt.Sprintf("is %d; want 0 to %d", p.Index, MaxIndex)}
	}
	return nil
}

func timeMember(members map[string]any, name string) (time.Time, error) {
	if _, ok := members[name]; !ok {
		return time.Time{}, nil
	}
	s, err := stringMember(members, name)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.IsZero() || t.Year() > maxYear {
		return time.Time{}, &FieldError{Field: name, Problem: "is " + excerpt(s) + "; want a time such as 2026-01-31T09:30:00Z"}
	}
	return t.UTC(), nil
}

const maxYear = 9999 // RFC 3339 has four digits for the year

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
