package deadletter

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// FuzzEncode encodes and decodes letters: the payload comes back byte for byte.
func FuzzEncode(f *testing.F) {
	f.Add("device:unbind", []byte(`{"v":1,"user_id":"u","device_id":"d"}`), "forbidden: no", "b", 3)
	f.Add("x", []byte("\xff\xfe\x00"), "", "", 0)
	f.Add("", []byte(nil), "<&>\u2028", "", 1)
	f.Fuzz(func(t *testing.T, kind string, payload []byte, text, batch string, attempts int) {
		in := Letter{
			ID: "id", Kind: tasks.Kind(kind), Queue: "unbind", Payload: payload, UserID: "u", Target: "d", Batch: batch,
			Reason: tasks.Rejected, Error: text, Attempts: attempts,
			DeadAt: time.Unix(1700000000, 5).UTC(), EnqueuedAt: time.Unix(1600000000, 0).UTC(),
		}
		data, err := in.encode()
		if err != nil {
			t.Fatal(err)
		}
		out := Decode("id", kind, data)
		// JSON cannot hold bytes that are not UTF-8; only the payload must.
		ignoreTexts := cmpopts.IgnoreFields(Letter{}, "Error", "Batch")
		if diff := cmp.Diff(in, out, cmpopts.EquateEmpty(), ignoreTexts); diff != "" {
			t.Errorf("(-encoded +decoded):\n%s", diff)
		}
	})
}

// FuzzDecode keeps the bytes of what is no envelope.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"v":2}`, `null`, `{"v":1,"payload":"a","payload_base64":"YQ=="}`, `{"v":1,"payload_base64":"%"}`,
		`{"v":1,"reason":"forbidden","payload":"{}"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := Decode("id", "kind", data)
		if l.Reason == tasks.Undecodable && l.Queue == tasks.QueueDeadLetter && string(l.Payload) != string(data) {
			t.Errorf("the payload of what is no envelope is %q; want %q", l.Payload, data)
		}
	})
}

// TestPark_TextFromStrangers parks what asynq's protobuf would refuse.
func TestPark_TextFromStrangers(t *testing.T) {
	t.Parallel()
	store := NewStore(redistest.Start(t).Client())
	for i, id := range []string{"a\xff", "a\xfe", "b\n"} {
		l := Letter{ID: id, Kind: "\xcak", Payload: []byte("x"), Reason: tasks.Rejected, Error: "rejected: \xca\xfd" + strings.Repeat("a", 100_000)}
		if err := store.Park(t.Context(), l); err != nil {
			t.Fatalf("%q: %v; want it parked", id, err)
		}
		if err := store.Park(t.Context(), l); !errors.Is(err, ErrBusy) {
			t.Errorf("%q once more: %v; want ErrBusy, since the first copy is arriving", id, err)
		}
		n := 0
		for l, err := range store.List(t.Context(), Filter{Reasons: []tasks.Reason{tasks.Rejected}}) {
			n++
			if err != nil || !utf8.ValidString(l.ID+string(l.Kind)+l.Error) || len(l.Error) > 2000 || !strings.HasPrefix(l.Error, "rejected: ??aaa") {
				t.Errorf("listed as %.100q, %.100q, %v; want text that can be printed, and is bounded", l.ID, l.Error, err)
			}
		}
		if n != i+1 {
			t.Errorf("%d letters are listed; want %d, each under its own ID", n, i+1)
		}
	}
}
