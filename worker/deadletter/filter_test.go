package deadletter

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// FuzzMayMatch encodes letters, and decodes them: a filter that selects the letter never
// passes over its message.
func FuzzMayMatch(f *testing.F) {
	f.Add("user-1", "batch-1", "forbidden", []byte(`{"user_id":"user-1"}`), true)
	f.Add("", "", "undecodable", []byte("\xff{\"user_id\":7}"), false)
	f.Add("a\"b<", "", "of_tomorrow", []byte(`{"user_id":"\u0061"}`), true)
	f.Fuzz(func(t *testing.T, user, batch, reason string, payload []byte, enveloped bool) {
		l := Letter{
			ID: "id", Kind: tasks.KindDeviceUnbind, Queue: "unbind", Payload: payload, UserID: user, Batch: batch,
			Reason: tasks.Reason(reason), Error: reason + ": x", DeadAt: time.Unix(1_700_000_000, 0),
		}
		data := payload
		if enveloped {
			var err error
			if data, err = l.encode(); err != nil {
				t.Fatal(err)
			}
		}
		got := Decode("id", string(l.Kind), data)
		for _, filter := range []Filter{{UserID: got.UserID}, {Batch: got.Batch}, {Reasons: []tasks.Reason{got.Reason}}, {UserID: got.UserID, Reasons: []tasks.Reason{got.Reason}}} {
			if len(data) > 0 && filter.matches(got) && !filter.mayMatch(string(data)) {
				t.Errorf("%+v selects %+v, and passes over %q", filter, got, data)
			}
		}
	})
}
