package asynqx

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Message is what this program reads of the message in which asynq keeps a task.
type Message struct {
	Kind         string
	Payload      []byte
	ID           string
	Queue        string
	Retried      int32
	ErrorMsg     string
	LastFailedAt int64             // in Unix seconds, 0 for never
	Headers      map[string]string // nil if there are none
}

// asynq's messages are Protocol Buffers. Their Go types are internal to asynq, but
// asynq registers them by name. So what is read here is exactly what asynq can read.
var (
	taskMessage = registered("asynq.TaskMessage")
	serverInfo  = registered("asynq.ServerInfo")
)

func registered(name protoreflect.FullName) protoreflect.MessageType {
	t, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		panic(fmt.Sprintf("this asynq registers no %s: %v", name, err))
	}
	return t
}

// ParseMessage reads a task's message. It refuses what asynq refuses.
func ParseMessage(raw []byte) (Message, error) {
	m, err := unmarshal(taskMessage, raw)
	if err != nil {
		return Message{}, err
	}
	var headers map[string]string
	if all := m.field("headers").Map(); all.Len() > 0 {
		headers = make(map[string]string, all.Len())
		all.Range(func(name protoreflect.MapKey, value protoreflect.Value) bool {
			headers[name.String()] = value.String()
			return true
		})
	}
	return Message{
		Headers: headers,
		Kind:    m.field("type").String(), Payload: m.field("payload").Bytes(),
		ID: m.field("id").String(), Queue: m.field("queue").String(),
		Retried:  int32(m.field("retried").Int()), //nolint:gosec // the field is an int32
		ErrorMsg: m.field("error_msg").String(), LastFailedAt: m.field("last_failed_at").Int(),
	}, nil
}

// RewriteFailure returns a message with another outcome of its last run. All
// other fields keep their values, those that this asynq does not know included.
func RewriteFailure(raw []byte, retried int32, errorMsg string, failedAt time.Time) ([]byte, error) {
	return rewrite(raw, map[protoreflect.Name]protoreflect.Value{
		"retried":        protoreflect.ValueOfInt32(retried),
		"error_msg":      protoreflect.ValueOfString(errorMsg),
		"last_failed_at": protoreflect.ValueOfInt64(failedAt.Unix()),
	})
}

// RewritePayload returns a message with another payload. All other fields keep
// their values.
func RewritePayload(raw, payload []byte) ([]byte, error) {
	return rewrite(raw, map[protoreflect.Name]protoreflect.Value{"payload": protoreflect.ValueOfBytes(payload)})
}

// SuspectHeader is the header of a task that was in flight when its worker died. It
// says that the task must run alone, unless the task's hash says something else. See
// package recovery.
const SuspectHeader = "kooworker-suspect"

// MarkSuspect returns a message with the header of a suspect. It returns the message
// as it is if the header is there already.
func MarkSuspect(raw []byte) ([]byte, error) {
	m, err := unmarshal(taskMessage, raw)
	if err != nil {
		return nil, err
	}
	headers, name := m.Mutable(m.descriptor("headers")).Map(), protoreflect.ValueOfString(SuspectHeader).MapKey()
	if headers.Has(name) {
		return raw, nil
	}
	headers.Set(name, protoreflect.ValueOfString("1"))
	return proto.Marshal(m.Interface())
}

// ParseServer reads from an asynq server's info whether the server is shutting down, and how
// many tasks it runs at once. Of an info that cannot be read it says no, and 0.
func ParseServer(info []byte) (isClosing bool, slots int) {
	m, err := unmarshal(serverInfo, info)
	if err != nil {
		return false, 0
	}
	status := m.field("status").String()
	return status != "" && status != "active", int(m.field("concurrency").Int())
}

// message is one of asynq's messages. Its fields go by name.
type message struct{ protoreflect.Message }

func unmarshal(t protoreflect.MessageType, raw []byte) (message, error) {
	m := message{t.New()}
	if err := proto.Unmarshal(raw, m.Interface()); err != nil {
		return message{}, fmt.Errorf("not a message of asynq: %w", err)
	}
	return m, nil
}

func rewrite(raw []byte, fields map[protoreflect.Name]protoreflect.Value) ([]byte, error) {
	m, err := unmarshal(taskMessage, raw)
	if err != nil {
		return nil, err
	}
	for name, value := range fields {
		m.Set(m.descriptor(name), value)
	}
	return proto.Marshal(m.Interface())
}

func (m message) field(name protoreflect.Name) protoreflect.Value { return m.Get(m.descriptor(name)) }

func (m message) descriptor(name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}
