package recovery

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of asynq.TaskMessage, by their numbers in asynq's asynq.proto. Its
// Go package is internal, so the few that matter are read here; a test holds
// them against the descriptor that asynq links in.
const (
	fieldType         protowire.Number = 1
	fieldPayload      protowire.Number = 2
	fieldID           protowire.Number = 3
	fieldQueue        protowire.Number = 4
	fieldRetried      protowire.Number = 6
	fieldErrorMsg     protowire.Number = 7
	fieldUniqueKey    protowire.Number = 10
	fieldLastFailedAt protowire.Number = 11
	fieldGroupKey     protowire.Number = 14
	fieldHeaders      protowire.Number = 15
)

// message is what is read of asynq's message.
type message struct {
	kind         string
	payload      []byte
	headers      map[string]string
	id           string
	queue        string
	retried      int32
	errorMsg     string
	lastFailedAt int64
}

var errNotUTF8 = errors.New("a string is not UTF-8")

// parseMessage reads a message, and refuses what asynq would refuse. It must
// not be more lenient: what it lets pass is requeued, and asynq would fail on
// it again, every 32 seconds for ever.
func parseMessage(raw []byte) (message, error) {
	var m message
	err := eachField(raw, func(num protowire.Number, typ protowire.Type, value []byte) error {
		return m.set(num, typ, value)
	})
	if err != nil {
		return message{}, err
	}
	return m, nil
}

// set takes in one field. A field that comes twice counts as it does in
// Protocol Buffers: the last one wins. One of another wire type is unknown.
func (m *message) set(num protowire.Number, typ protowire.Type, value []byte) error {
	switch typ {
	case protowire.VarintType:
		v, _ := protowire.ConsumeVarint(value)
		m.setNumber(num, v)
		return nil
	case protowire.BytesType:
		v, _ := protowire.ConsumeBytes(value)
		return m.setBytes(num, v)
	default:
		return nil
	}
}

func (m *message) setNumber(num protowire.Number, v uint64) {
	switch num {
	case fieldRetried:
		m.retried = int32(v) //nolint:gosec // cut off as Protocol Buffers say
	case fieldLastFailedAt:
		m.lastFailedAt = int64(v) //nolint:gosec // negative numbers are written so
	default:
	}
}

func (m *message) setBytes(num protowire.Number, v []byte) error {
	var field *string
	switch num {
	case fieldPayload:
		m.payload = v
		return nil
	case fieldHeaders:
		return m.setHeader(v)
	case fieldType:
		field = &m.kind
	case fieldID:
		field = &m.id
	case fieldQueue:
		field = &m.queue
	case fieldErrorMsg:
		field = &m.errorMsg
	case fieldUniqueKey, fieldGroupKey:
		field = new(string) // checked, and of no interest
	default:
		return nil
	}
	if !utf8.Valid(v) {
		return fmt.Errorf("field %d: %w", num, errNotUTF8)
	}
	*field = string(v)
	return nil
}

// setHeader takes in an entry of the headers: a message of key and value.
func (m *message) setHeader(entry []byte) error {
	var pair [2]string
	err := eachField(entry, func(num protowire.Number, typ protowire.Type, value []byte) error {
		if typ != protowire.BytesType || num < 1 || num > 2 {
			return nil
		}
		v, _ := protowire.ConsumeBytes(value)
		if !utf8.Valid(v) {
			return fmt.Errorf("a header: %w", errNotUTF8)
		}
		pair[num-1] = string(v)
		return nil
	})
	if err != nil {
		return err
	}
	if m.headers == nil {
		m.headers = make(map[string]string)
	}
	m.headers[pair[0]] = pair[1]
	return nil
}

// rewriteFailure returns a message with another outcome of its last run. All
// other fields, those that are unknown here included, keep their bytes.
func rewriteFailure(raw []byte, retried int32, errorMsg string, failedAt time.Time) ([]byte, error) {
	out := make([]byte, 0, len(raw)+len(errorMsg)+16)
	err := eachField(raw, func(num protowire.Number, typ protowire.Type, value []byte) error {
		switch num {
		case fieldRetried, fieldErrorMsg, fieldLastFailedAt: // in any wire type
		default:
			out = append(protowire.AppendTag(out, num, typ), value...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out = protowire.AppendVarint(protowire.AppendTag(out, fieldRetried, protowire.VarintType), uint64(retried)) //nolint:gosec // negative numbers are written so
	out = protowire.AppendString(protowire.AppendTag(out, fieldErrorMsg, protowire.BytesType), errorMsg)
	return protowire.AppendVarint(protowire.AppendTag(out, fieldLastFailedAt, protowire.VarintType), uint64(failedAt.Unix())), nil //nolint:gosec // after 1970
}

// eachField calls f with each field of a message: its number, its wire type and
// its value as it stands, the length of a string included.
func eachField(raw []byte, f func(protowire.Number, protowire.Type, []byte) error) error {
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return fmt.Errorf("not a message: %w", protowire.ParseError(n))
		}
		if !num.IsValid() {
			return fmt.Errorf("not a message: no field has the number %d", num)
		}
		raw = raw[n:]
		n = protowire.ConsumeFieldValue(num, typ, raw)
		if n < 0 {
			return fmt.Errorf("not a message: %w", protowire.ParseError(n))
		}
		if err := f(num, typ, raw[:n]); err != nil {
			return err
		}
		raw = raw[n:]
	}
	return nil
}
