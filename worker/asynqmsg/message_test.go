package asynqmsg

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/hibiken/asynq" // registers its messages
)

// asynqMessage is asynq's own type. Its Go package is internal, but the type is
// registered by name.
func asynqMessage(tb testing.TB, name protoreflect.FullName) protoreflect.Message {
	tb.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		tb.Fatalf("asynq has no %s any more: %v", name, err)
	}
	return typ.New()
}

// seeds are messages that asynq v0.26.0 wrote, copied out of Redis: two as its
// client made them and the same after a retry; and then one with every field
// set, and some that are none.
var seeds = []string{
	"\n\rdevice:unbind\x12\apayload\x1a\x01x\"\x06unbind(\xe8\a@\x88\x0e",
	"\n\flock:release\x12\a{\"v\":1}\x1a\x01y\"\x06unbind(\x03H\x9b\x9c\x8d\xd8\x06RCasynq:{unbind}:unique:lock:release:a191475ae2bf7db9c7e320f7da455bbb`\x90\x1cz\x17\n\x12kooworker-attempts\x12\x012",
	"\n\rdevice:unbind\x12\apayload\x1a\x01x\"\x06unbind(\xe8\a0\x01:\x18forbidden: no permission@\x88\x0eX\x8b\x80\x8d\xd8\x06",
	"\n\flock:release\x12\a{\"v\":1}\x1a\x01y\"\x06unbind(\x030\x01:\x18forbidden: no permissionH\x9b\x9c\x8d\xd8\x06RCasynq:{unbind}:unique:lock:release:a191475ae2bf7db9c7e320f7da455bbbX\x8b\x80\x8d\xd8\x06`\x90\x1cz\x17\n\x12kooworker-attempts\x12\x012",
	"\n\x01t\x12\x00\x1a\x02id\"\x01q(\x010\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01P\x01R\x01uX\x01`\x02h\x03r\x01gz\x00",
	"",
	"\xff",
	"\n\x02\xff\xfe",
	"z\x04\n\x02\xff\xff",
	"\x0b\x0c",
	"\xf8\xff\xff\xff\xff\x0f\x01",
}

// FuzzMessage holds the codec against asynq's: both refuse the same bytes, read
// the same fields, and what is rewritten differs in the fields that were to
// change and in no other.
func FuzzMessage(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		want := asynqMessage(t, "asynq.TaskMessage")
		wantErr := proto.Unmarshal(raw, want.Interface())
		got, err := Parse(raw)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: read with %v; asynq says %v", raw, err, wantErr)
		}
		if err != nil {
			return
		}
		compareMessage(t, got, want)
		swapped, err := RewritePayload(raw, []byte("another"))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(swapped); err != nil || string(again.Payload) != "another" || again.ID != got.ID || again.Retried != got.Retried {
			t.Errorf("%q with another payload reads as %+v, %v", raw, again, err)
		}
		rewritten, err := RewriteFailure(raw, 7, "crashed: x", time.Unix(1_700_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		after := asynqMessage(t, "asynq.TaskMessage")
		if err := proto.Unmarshal(rewritten, after.Interface()); err != nil {
			t.Fatalf("asynq cannot read what was rewritten: %v", err)
		}
		set(want, "retried", protoreflect.ValueOfInt32(7))
		set(want, "error_msg", protoreflect.ValueOfString("crashed: x"))
		set(want, "last_failed_at", protoreflect.ValueOfInt64(1_700_000_000))
		if lost := len(want.GetUnknown()) - len(after.GetUnknown()); lost != unknownOutcome(want.GetUnknown()) {
			t.Errorf("%q: %d bytes of unknown fields are lost", raw, lost)
		}
		want.SetUnknown(nil)
		after.SetUnknown(nil)
		if !proto.Equal(want.Interface(), after.Interface()) {
			t.Errorf("%q rewritten is %v; want %v", raw, after, want)
		}
	})
}

// unknownOutcome counts the bytes of unknown fields that carry the numbers of
// those that are rewritten, with another wire type: asynq ignores them.
func unknownOutcome(unknown []byte) int {
	n := 0
	for len(unknown) > 0 {
		num, _, size := protowire.ConsumeField(unknown)
		if num == fieldRetried || num == fieldErrorMsg || num == fieldLastFailedAt {
			n += size
		}
		unknown = unknown[size:]
	}
	return n
}

func set(m protoreflect.Message, name protoreflect.Name, v protoreflect.Value) {
	m.Set(m.Descriptor().Fields().ByName(name), v)
}

func compareMessage(t *testing.T, got Message, want protoreflect.Message) {
	t.Helper()
	field := func(name protoreflect.Name) protoreflect.Value {
		return want.Get(want.Descriptor().Fields().ByName(name))
	}
	for name, s := range map[protoreflect.Name]string{"type": got.Kind, "id": got.ID, "queue": got.Queue, "error_msg": got.ErrorMsg} {
		if s != field(name).String() {
			t.Errorf("%s is %q; want %q", name, s, field(name).String())
		}
	}
	if !bytes.Equal(got.Payload, field("payload").Bytes()) {
		t.Errorf("payload is %q; want %q", got.Payload, field("payload").Bytes())
	}
	if int64(got.Retried) != field("retried").Int() || got.LastFailedAt != field("last_failed_at").Int() {
		t.Errorf("retried %d, failed at %d; want %d, %d", got.Retried, got.LastFailedAt, field("retried").Int(), field("last_failed_at").Int())
	}
	headers := map[string]string{}
	field("headers").Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		headers[k.String()] = v.String()
		return true
	})
	if !maps.Equal(headers, got.Headers) {
		t.Errorf("headers are %q; want %q", got.Headers, headers)
	}
}

// It fails when an upgrade of asynq changes what is relied on here. Then read
// asynq's internal/rdb and internal/proto again before anything else.
func TestAsynqsFields(t *testing.T) {
	t.Parallel()
	type field struct {
		num  protowire.Number
		kind protoreflect.Kind
	}
	for message, fields := range map[protoreflect.FullName]map[protoreflect.Name]field{
		"asynq.TaskMessage": {
			"type": {fieldType, protoreflect.StringKind}, "payload": {fieldPayload, protoreflect.BytesKind},
			"id": {fieldID, protoreflect.StringKind}, "queue": {fieldQueue, protoreflect.StringKind},
			"retry": {5, protoreflect.Int32Kind}, "retried": {fieldRetried, protoreflect.Int32Kind},
			"error_msg": {fieldErrorMsg, protoreflect.StringKind}, "timeout": {8, protoreflect.Int64Kind},
			"deadline": {9, protoreflect.Int64Kind}, "unique_key": {fieldUniqueKey, protoreflect.StringKind},
			"last_failed_at": {fieldLastFailedAt, protoreflect.Int64Kind}, "retention": {12, protoreflect.Int64Kind},
			"completed_at": {13, protoreflect.Int64Kind}, "group_key": {fieldGroupKey, protoreflect.StringKind},
			"headers": {fieldHeaders, protoreflect.MessageKind},
		},
		"asynq.ServerInfo": {"status": {fieldServerStatus, protoreflect.StringKind}},
	} {
		got := asynqMessage(t, message).Descriptor().Fields()
		for name, want := range fields {
			if f := got.ByName(name); f == nil || f.Number() != want.num || f.Kind() != want.kind {
				t.Errorf("%s.%s is %v; want number %d of kind %s", message, name, f, want.num, want.kind)
			}
		}
		// A new string of TaskMessage would have to be checked for UTF-8.
		if message == "asynq.TaskMessage" && got.Len() != len(fields) {
			t.Errorf("%s has %d fields; want %d", message, got.Len(), len(fields))
		}
	}
}
