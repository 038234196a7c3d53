// Package asynqmsg reads the messages in which asynq v0.26 keeps its tasks, and
// rewrites the few fields that are changed behind asynq's back. asynq's own
// code for it is internal; the format is Protocol Buffers, defined by asynq's
// asynq.proto, and a test holds what is here against the descriptor that asynq
// links in.
//
// Packages deadletter and recovery use it, which look at many tasks at a time or
// at tasks that asynq itself cannot read. It imports nothing of this module.
package asynqmsg

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of asynq.TaskMessage that matter here.
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

// The field of asynq.ServerInfo that matters here.
const fieldServerStatus protowire.Number = 7

// Message is what is read of asynq's message.
type Message struct {
	Kind         string
	Payload      []byte
	Headers      map[string]string
	ID           string
	Queue        string
	Retried      int32
	ErrorMsg     string
	LastFailedAt int64 // in Unix seconds, 0 for never
}

var errNotUTF8 = errors.New("a string is not UTF-8")

// Parse reads a message, and refuses what asynq would refuse. It must not be
// more lenient: what it lets pass is given to asynq again.
func Parse(raw []byte) (Message, error) {
	var m Message
	if err := eachField(raw, m.set); err != nil {
		return Message{}, err
	}
	return m, nil
}

// set takes in one field. A field that comes twice counts as it does in
// Protocol Buffers: the last one wins. One of another wire type is unknown.
func (m *Message) set(num protowire.Number, typ protowire.Type, value []byte) error {
	switch typ {
	case protowire.VarintType:
		v, _ := protowire.ConsumeVarint(value)
		switch num {
		case fieldRetried:
			m.Retried = int32(v) //nolint:gosec // cut off as Protocol Buffers say
		case fieldLastFailedAt:
			m.LastFailedAt = int64(v) //nolint:gosec // negative numbers are written so
		default:
		}
		return nil
	case protowire.BytesType:
		v, _ := protowire.ConsumeBytes(value)
		switch num {
		case fieldPayload:
			m.Payload = v
			return nil
		case fieldHeaders:
			return m.setHeader(v)
		case fieldType, fieldID, fieldQueue, fieldErrorMsg, fieldUniqueKey, fieldGroupKey:
			if !utf8.Valid(v) {
				return fmt.Errorf("field %d: %w", num, errNotUTF8)
			}
			m.setString(num, string(v))
		default:
		}
	default: // asynq's messages have no other
	}
	return nil
}

func (m *Message) setString(num protowire.Number, s string) {
	switch num {
	case fieldType:
		m.Kind = s
	case fieldID:
		m.ID = s
	case fieldQueue:
		m.Queue = s
	case fieldErrorMsg:
		m.ErrorMsg = s
	default: // only checked
	}
}

// setHeader takes in an entry of the headers: a message of key and value.
func (m *Message) setHeader(entry []byte) error {
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
	if m.Headers == nil {
		m.Headers = make(map[string]string)
	}
	m.Headers[pair[0]] = pair[1]
	return nil
}

// ServerStatus reads the status of an asynq server off its info: "active",
// "closed", or "" if it has none.
func ServerStatus(info []byte) (status string, err error) {
	err = eachField(info, func(num protowire.Number, typ protowire.Type, value []byte) error {
		if num == fieldServerStatus && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(value)
			status = string(v)
		}
		return nil
	})
	return status, err
}

// RewriteFailure returns a message with another outcome of its last run. All
// other fields, those that are unknown here included, keep their bytes.
func RewriteFailure(raw []byte, retried int32, errorMsg string, failedAt time.Time) ([]byte, error) {
	out, err := without(raw, fieldRetried, fieldErrorMsg, fieldLastFailedAt)
	if err != nil {
		return nil, err
	}
	out = protowire.AppendVarint(protowire.AppendTag(out, fieldRetried, protowire.VarintType), uint64(retried)) //nolint:gosec // negative numbers are written so
	out = protowire.AppendString(protowire.AppendTag(out, fieldErrorMsg, protowire.BytesType), errorMsg)
	return protowire.AppendVarint(protowire.AppendTag(out, fieldLastFailedAt, protowire.VarintType), uint64(failedAt.Unix())), nil //nolint:gosec // after 1970
}

// RewritePayload returns a message with another payload. All other fields keep
// their bytes.
func RewritePayload(raw, payload []byte) ([]byte, error) {
	out, err := without(raw, fieldPayload)
	if err != nil {
		return nil, err
	}
	return protowire.AppendBytes(protowire.AppendTag(out, fieldPayload, protowire.BytesType), payload), nil
}

// without returns a message without some of its fields.
func without(raw []byte, fields ...protowire.Number) ([]byte, error) {
	out := make([]byte, 0, len(raw)+64)
	err := eachField(raw, func(num protowire.Number, typ protowire.Type, value []byte) error {
		if slices.Contains(fields, num) {
			return nil
		}
		out = append(protowire.AppendTag(out, num, typ), value...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
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
