package tasks

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
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
	m, err := readObject(p, names)
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
		t = LockSweep{Source: m.source(), Grace: m.duration("grace"), Max: m.integer("max"), MaxShare: m.float("max_share"), Force: m.boolean("force")}
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

// memberNames are the names of the members that a kind may have.
var memberNames = map[Kind][]string{
	KindDeviceUnbind: namesWith("user_id", "device_id", "listed"),
	KindLockRelease:  namesWith("user_id", "lock_id", "source", "expired_at"),
	KindUserOffboard: namesWith("user_id"),
	KindLockSweep:    namesWith("source", "grace", "max", "max_share", "force"),
	KindBatchWebhook: namesWith("batch_id"),
}

// namesWith returns the names of a kind's own members among those of every kind.
func namesWith(own ...string) []string {
	return slices.Concat([]string{"v"}, own, []string{"batch", "index", "enqueued_at", "not_after", "no_guard"})
}

// readObject reads one flat JSON object that has only members of these names.
// encoding/json alone would accept a member that is given twice, and names in
// any case, and its tokens cost several times as much.
func readObject(p []byte, names []string) (*members, error) {
	if !json.Valid(p) {
		return nil, &FieldError{Field: "payload", Problem: fmt.Sprintf("is not a JSON object: %v", json.Unmarshal(p, new(any)))}
	}
	tok, rest := nextToken(p)
	if tok[0] != '{' {
		return nil, &FieldError{Field: "payload", Problem: "is not a JSON object"}
	}
	m := &members{all: make([]member, 0, len(names))}
	for {
		if tok, rest = nextToken(rest); tok[0] == '}' {
			return m, nil
		}
		name := unquote(tok)
		if !slices.Contains(names, name) {
			return nil, &FieldError{Field: excerpt(name), Problem: fmt.Sprintf("is not a member of this kind; want %v", names)}
		}
		if m.has(name) {
			return nil, &FieldError{Field: name, Problem: "is given twice"}
		}
		if tok, rest = nextToken(rest); tok[0] == '{' || tok[0] == '[' {
			return nil, &FieldError{Field: name, Problem: "is an object or a list; want a plain value"}
		}
		m.all = append(m.all, member{name: name, json: tok})
	}
}

// nextToken returns the next token of valid JSON but colons and commas, and what
// follows it.
func nextToken(p []byte) (tok, rest []byte) {
	p = bytes.TrimLeft(p, " \t\r\n:,")
	n := 1
	switch p[0] {
	case '{', '}', '[', ']':
	case '"':
		for ; p[n] != '"'; n++ {
			if p[n] == '\\' {
				n++
			}
		}
		n++
	default: // a number, true, false or null
		if n = bytes.IndexAny(p, " \t\r\n,}]"); n < 0 {
			n = len(p)
		}
	}
	return p[:n], p[n:]
}

// unquote returns what a JSON string says. Bytes that are not UTF-8 become U+FFFD.
func unquote(tok []byte) (s string) {
	if plain := tok[1 : len(tok)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return string(plain)
	}
	_ = json.Unmarshal(tok, &s) // it is valid
	return s
}

// members are the members of a JSON object. Each method reads one of them. The
// first problem that they meet is kept in err. Except for text, a method returns
// the zero value for a member that is not there.
type members struct {
	all []member
	err error
}

// member is a member whose value is plain.
type member struct {
	name string
	json []byte // the value; nil if the member is not there
}

// kind returns the first byte of the value, '0' for any number, and 0 for no value.
func (v member) kind() byte {
	switch {
	case v.json == nil:
		return 0
	case v.json[0] == '-' || '0' <= v.json[0] && v.json[0] <= '9':
		return '0'
	default:
		return v.json[0]
	}
}

// text returns what a string says, and the JSON of any other value.
func (v member) text() string {
	if v.kind() == '"' {
		return unquote(v.json)
	}
	return string(v.json)
}

// get returns a member, or one without a value.
func (m *members) get(name string) member {
	for _, one := range m.all {
		if one.name == name {
			return one
		}
	}
	return member{}
}

func (m *members) keep(err error) { m.err = cmp.Or(m.err, err) }

func (m *members) fail(name, format string, args ...any) {
	m.keep(&FieldError{Field: name, Problem: fmt.Sprintf(format, args...)})
}

func (m *members) has(name string) bool { return m.get(name).kind() != 0 }

func (m *members) checkVersion() {
	switch v := m.get("v"); {
	case v.kind() == 0:
		m.fail("v", "is missing; want %d", Version)
	case v.kind() != '0' || v.text() != strconv.Itoa(Version):
		m.fail("v", "is %s; this version reads %d", excerpt(v.text()), Version)
	}
}

// text reads a string that must be there.
func (m *members) text(name string) string {
	switch v := m.get(name); v.kind() {
	case '"':
		return v.text()
	case 0:
		m.fail(name, "is missing")
	default:
		m.fail(name, "is %s; want a string", jsonType(v.kind()))
	}
	return ""
}

func (m *members) boolean(name string) bool {
	v := m.get(name)
	switch v.kind() {
	case 0, 't', 'f':
	default:
		m.fail(name, "is %s; want true or false", jsonType(v.kind()))
	}
	return v.kind() == 't'
}

// number reads a number with parse, which accepts what want says.
func number[T int64 | float64](m *members, name, want string, parse func(string) (T, error)) (n T) {
	v := m.get(name)
	if v.kind() == 0 {
		return 0
	}
	err := errors.ErrUnsupported
	if v.kind() == '0' {
		n, err = parse(v.text())
	}
	if err != nil {
		m.fail(name, "is %s; want %s", excerpt(v.text()), want)
	}
	return n
}

func (m *members) integer(name string) int64 {
	return number(m, name, "a whole number", func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
}

func (m *members) float(name string) float64 {
	return number(m, name, "a number", func(s string) (float64, error) { return strconv.ParseFloat(s, 64) })
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

func jsonType(kind byte) string {
	switch kind {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '0':
		return "a number"
	default:
		return "a string"
	}
}
