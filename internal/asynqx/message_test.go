package asynqx

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

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

// FuzzMessage compares the codec with asynq's own: both refuse the same bytes and
// read the same fields. What is rewritten differs in the fields that were to
// change and in no other.
func FuzzMessage(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		want := message{taskMessage.New()}
		wantErr := proto.Unmarshal(raw, want.Interface())
		got, err := ParseMessage(raw)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("ParseMessage(%q): %v; asynq says %v", raw, err, wantErr)
		}
		if err != nil {
			return
		}
		compareMessage(t, got, want)
		swapped, err := RewritePayload(raw, []byte("another"))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseMessage(swapped); err != nil || string(again.Payload) != "another" || again.ID != got.ID || again.Retried != got.Retried {
			t.Errorf("%q with another payload reads as %+v, %v", raw, again, err)
		}
		wantMarked(t, raw)
		rewritten, err := RewriteFailure(raw, 7, "crashed: x", time.Unix(1_700_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		after := message{taskMessage.New()}
		if err := proto.Unmarshal(rewritten, after.Interface()); err != nil {
			t.Fatalf("asynq cannot read what was rewritten: %v", err)
		}
		want.Set(want.descriptor("retried"), protoreflect.ValueOfInt32(7))
		want.Set(want.descriptor("error_msg"), protoreflect.ValueOfString("crashed: x"))
		want.Set(want.descriptor("last_failed_at"), protoreflect.ValueOfInt64(1_700_000_000))
		if !proto.Equal(want.Interface(), after.Interface()) { // unknown fields included
			t.Errorf("%q rewritten is %v; want %v", raw, after.Interface(), want.Interface())
		}
	})
}

// wantMarked marks a message. It must differ in one header, and in nothing else.
func wantMarked(t *testing.T, raw []byte) {
	t.Helper()
	marked, err := MarkSuspect(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, want := message{taskMessage.New()}, message{taskMessage.New()}
	if err := errors.Join(proto.Unmarshal(marked, got.Interface()), proto.Unmarshal(raw, want.Interface())); err != nil {
		t.Fatalf("asynq cannot read what was marked: %v", err)
	}
	name := protoreflect.ValueOfString(SuspectHeader).MapKey()
	if !got.field("headers").Map().Has(name) {
		t.Errorf("%q was marked and has no header", raw)
	}
	want.Mutable(want.descriptor("headers")).Map().Set(name, got.field("headers").Map().Get(name))
	if !proto.Equal(got.Interface(), want.Interface()) {
		t.Errorf("%q marked is %v; want it to differ in the header only", raw, got.Interface())
	}
	if again, err := MarkSuspect(marked); err != nil || !bytes.Equal(again, marked) {
		t.Errorf("marked twice: %q, %v; want it as it was", again, err)
	}
}

func compareMessage(t *testing.T, got Message, want message) {
	t.Helper()
	for name, s := range map[protoreflect.Name]string{"type": got.Kind, "id": got.ID, "queue": got.Queue, "error_msg": got.ErrorMsg} {
		if s != want.field(name).String() {
			t.Errorf("%s is %q; want %q", name, s, want.field(name).String())
		}
	}
	if !bytes.Equal(got.Payload, want.field("payload").Bytes()) {
		t.Errorf("payload is %q; want %q", got.Payload, want.field("payload").Bytes())
	}
	if int64(got.Retried) != want.field("retried").Int() || got.LastFailedAt != want.field("last_failed_at").Int() {
		t.Errorf("retried %d, failed at %d; want %d, %d", got.Retried, got.LastFailedAt, want.field("retried").Int(), want.field("last_failed_at").Int())
	}
	headers := want.field("headers").Map()
	if len(got.Headers) != headers.Len() {
		t.Errorf("headers %q; want %v", got.Headers, headers)
	}
	headers.Range(func(name protoreflect.MapKey, value protoreflect.Value) bool {
		if got.Headers[name.String()] != value.String() {
			t.Errorf("header %q is %q; want %q", name.String(), got.Headers[name.String()], value.String())
		}
		return true
	})
}

// TestMessage_AsynqsFields fails when another asynq has other fields.
func TestMessage_AsynqsFields(t *testing.T) {
	t.Parallel()
	type field struct {
		num  protowire.Number
		kind protoreflect.Kind
	}
	for message, fields := range map[protoreflect.MessageType]map[protoreflect.Name]field{
		taskMessage: {
			"type": {1, protoreflect.StringKind}, "payload": {2, protoreflect.BytesKind},
			"id": {3, protoreflect.StringKind}, "queue": {4, protoreflect.StringKind},
			"retry": {5, protoreflect.Int32Kind}, "retried": {6, protoreflect.Int32Kind},
			"error_msg": {7, protoreflect.StringKind}, "timeout": {8, protoreflect.Int64Kind},
			"deadline": {9, protoreflect.Int64Kind}, "unique_key": {10, protoreflect.StringKind},
			"last_failed_at": {11, protoreflect.Int64Kind}, "retention": {12, protoreflect.Int64Kind},
			"completed_at": {13, protoreflect.Int64Kind}, "group_key": {14, protoreflect.StringKind},
			"headers": {15, protoreflect.MessageKind},
		},
		serverInfo: {"status": {7, protoreflect.StringKind}},
	} {
		got := message.Descriptor().Fields()
		for name, want := range fields {
			if f := got.ByName(name); f == nil || f.Number() != want.num || f.Kind() != want.kind {
				t.Errorf("%s.%s is %v; want number %d of kind %s", message.Descriptor().FullName(), name, f, want.num, want.kind)
			}
		}
		// A field that is new may change what the others mean.
		if message == taskMessage && got.Len() != len(fields) {
			t.Errorf("%s has %d fields; want %d", message.Descriptor().FullName(), got.Len(), len(fields))
		}
	}
}

func TestParseServer(t *testing.T) {
	t.Parallel()
	status := func(s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, 7, protowire.BytesType), s)
	}
	for info, want := range map[string]bool{
		string(status("active")): false, string(status("closed")): true, string(status("stopped")): true,
		"": false, "\xff": false,
	} {
		if got, _ := ParseServer([]byte(info)); got != want {
			t.Errorf("ParseServer(%q): closing %v; want %v", info, got, want)
		}
	}
	slots := protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 64)
	if _, got := ParseServer(slots); got != 64 {
		t.Errorf("ParseServer: %d slots; want 64", got)
	}
}
