package tasks_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/tasks"
)

const lockID = "78e41c7e-db02-4d55-85b3-8153e4fefd2e@102"

func TestEncode_DocumentedWire(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 31, 9, 30, 0, 5e6, time.FixedZone("", 3600))
	documented := map[tasks.Kind]bool{}
	for _, tc := range []struct {
		task   tasks.Task
		intent tasks.Intent
		want   string
	}{
		{tasks.DeviceUnbind{UserID: "u-1", DeviceID: "1775406005920779393"}, tasks.Intent{}, `{"v":1,"user_id":"u-1","device_id":"1775406005920779393"}`},
		{tasks.DeviceUnbind{UserID: "u", DeviceID: `AA:"b/ c\`, Listed: true}, tasks.Intent{}, `{"v":1,"user_id":"u","device_id":"AA:\"b/ c\\","listed":true}`},
		{tasks.LockRelease{UserID: "u&<1>", LockID: lockID}, tasks.Intent{}, `{"v":1,"user_id":"u&<1>","lock_id":"` + lockID + `"}`},
		{tasks.UserOffboard{UserID: `a"b\c`}, tasks.Intent{BatchRef: tasks.BatchRef{Batch: "b.1", Index: 7}}, `{"v":1,"user_id":"a\"b\\c","batch":"b.1","index":7}`},
		{tasks.LockRelease{UserID: "u", LockID: "l", Evidence: tasks.SweepEvidence{Source: tasks.SourceSQL, ExpiredAt: at}}, tasks.Intent{}, `{"v":1,"user_id":"u","lock_id":"l","source":"sql","expired_at":"2026-01-31T08:30:00.005Z"}`},
		{tasks.LockSweep{}, tasks.Intent{}, `{"v":1}`},
		{tasks.LockSweep{Source: tasks.SourceSQL, Max: 5}, tasks.Intent{}, `{"v":1,"source":"sql","max":5}`},
		{tasks.LockSweep{Grace: 2 * time.Minute, Max: 10_000, MaxShare: 0.25, Force: true}, tasks.Intent{}, `{"v":1,"grace":"2m0s","max":10000,"max_share":0.25,"force":true}`},
		{tasks.BatchWebhook{BatchID: "b-1"}, tasks.Intent{}, `{"v":1,"batch_id":"b-1"}`},
		{tasks.LockRelease{UserID: "u", LockID: "l"}, tasks.Intent{EnqueuedAt: at, NotAfter: at, NoGuard: true}, `{"v":1,"user_id":"u","lock_id":"l","enqueued_at":"2026-01-31T08:30:00.005Z","not_after":"2026-01-31T08:30:00.005Z","no_guard":true}`},
	} {
		got, err := tasks.Encode(tc.task, tc.intent)
		if err != nil {
			t.Fatalf("Encode(%+v): %v", tc.task, err)
		}
		if string(got) != tc.want {
			t.Errorf("Encode(%+v)\n got %s\nwant %s", tc.task, got, tc.want)
		}
		documented[tc.task.Kind()] = true
	}
	for _, kind := range tasks.Kinds() {
		if !documented[kind] {
			t.Errorf("%s has no documented payload here; want one", kind)
		}
	}
}

func TestDecode_NamesWrongMember(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 129)
	for name, tc := range map[string]struct {
		kind    tasks.Kind
		payload string
		field   string
	}{
		"not json":                {tasks.KindDeviceUnbind, `nope`, "payload"},
		"empty":                   {tasks.KindDeviceUnbind, ``, "payload"},
		"a list":                  {tasks.KindDeviceUnbind, `[]`, "payload"},
		"truncated":               {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u"`, "payload"},
		"more text":               {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"d"}{}`, "payload"},
		"too large":               {tasks.KindDeviceUnbind, `{"v":1,"user_id":"` + strings.Repeat("x", 5000) + `"}`, "payload"},
		"no version":              {tasks.KindDeviceUnbind, `{"user_id":"u","device_id":"d"}`, "v"},
		"version 2":               {tasks.KindDeviceUnbind, `{"v":2,"user_id":"u","device_id":"d"}`, "v"},
		"version as string":       {tasks.KindDeviceUnbind, `{"v":"1","user_id":"u","device_id":"d"}`, "v"},
		"version 1.0":             {tasks.KindDeviceUnbind, `{"v":1.0,"user_id":"u","device_id":"d"}`, "v"},
		"unknown member":          {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"d","token":"x"}`, `"token"`},
		"member of another kind":  {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","lock_id":"l"}`, `"lock_id"`},
		"member in capitals":      {tasks.KindDeviceUnbind, `{"v":1,"User_ID":"u","device_id":"d"}`, `"User_ID"`},
		"member given twice":      {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"d","device_id":"e"}`, "device_id"},
		"number for a user":       {tasks.KindDeviceUnbind, `{"v":1,"user_id":7,"device_id":"d"}`, "user_id"},
		"null user":               {tasks.KindDeviceUnbind, `{"v":1,"user_id":null,"device_id":"d"}`, "user_id"},
		"nested":                  {tasks.KindDeviceUnbind, `{"v":1,"user_id":{"a":1},"device_id":"d"}`, "user_id"},
		"missing user":            {tasks.KindDeviceUnbind, `{"v":1,"device_id":"d"}`, "user_id"},
		"empty user":              {tasks.KindDeviceUnbind, `{"v":1,"user_id":"","device_id":"d"}`, "user_id"},
		"long user":               {tasks.KindDeviceUnbind, `{"v":1,"user_id":"` + long + `","device_id":"d"}`, "user_id"},
		"user with newline":       {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u\r\nX-Evil: 1","device_id":"d"}`, "user_id"},
		"user with space":         {tasks.KindDeviceUnbind, `{"v":1,"user_id":"a b","device_id":"d"}`, "user_id"},
		"user not ascii":          {tasks.KindDeviceUnbind, `{"v":1,"user_id":"ü","device_id":"d"}`, "user_id"},
		"user not utf-8":          {tasks.KindDeviceUnbind, "{\"v\":1,\"user_id\":\"\xff\",\"device_id\":\"d\"}", "user_id"},
		"empty device":            {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":""}`, "device_id"},
		"device dot dot":          {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":".."}`, "device_id"},
		"device slash":            {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"a/b"}`, "device_id"},
		"device escaped":          {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"a%2Fb"}`, "device_id"},
		"device long":             {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"` + long + `"}`, "device_id"},
		"device as number":        {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":1775406005920779393}`, "device_id"},
		"device ends in nl":       {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"d\n"}`, "device_id"},
		"lock with crlf":          {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l\r\nHost: x"}`, "lock_id"},
		"lock with two ats":       {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l@1@2"}`, "lock_id"},
		"lock module letter":      {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l@x"}`, "lock_id"},
		"bad time":                {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l","not_after":"soon"}`, "not_after"},
		"time as number":          {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l","enqueued_at":12}`, "enqueued_at"},
		"no index":                {tasks.KindUserOffboard, `{"v":1,"user_id":"u","batch":"b"}`, "index"},
		"no batch":                {tasks.KindUserOffboard, `{"v":1,"user_id":"u","index":1}`, "batch"},
		"negative index":          {tasks.KindUserOffboard, `{"v":1,"user_id":"u","batch":"b","index":-1}`, "index"},
		"broken index":            {tasks.KindUserOffboard, `{"v":1,"user_id":"u","batch":"b","index":1.5}`, "index"},
		"index as string":         {tasks.KindUserOffboard, `{"v":1,"user_id":"u","batch":"b","index":"1"}`, "index"},
		"huge index":              {tasks.KindUserOffboard, `{"v":1,"user_id":"u","batch":"b","index":1073741824}`, "index"},
		"odd batch":               {tasks.KindUserOffboard, `{"v":1,"user_id":"u","batch":"a}b","index":1}`, "batch"},
		"offboard a device":       {tasks.KindUserOffboard, `{"v":1,"user_id":"u","device_id":"d"}`, `"device_id"`},
		"webhook of a user":       {tasks.KindBatchWebhook, `{"v":1,"user_id":"u"}`, `"user_id"`},
		"no source":               {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l","expired_at":"2026-01-31T08:30:00Z"}`, "source"},
		"no expiry":               {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l","source":"sql"}`, "expired_at"},
		"odd source":              {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l","source":"x","expired_at":"2026-01-31T08:30:00Z"}`, "source"},
		"unbind with a source":    {tasks.KindDeviceUnbind, `{"v":1,"user_id":"u","device_id":"d","source":"sql"}`, `"source"`},
		"sweep of a user":         {tasks.KindLockSweep, `{"v":1,"user_id":"u"}`, `"user_id"`},
		"sweep of empty source":   {tasks.KindLockSweep, `{"v":1,"source":""}`, "source"},
		"sweep of unknown source": {tasks.KindLockSweep, `{"v":1,"source":"moon"}`, "source"},
		"release of empty source": {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l","source":"","expired_at":"2026-01-31T08:30:00Z"}`, "source"},
		"odd grace":               {tasks.KindLockSweep, `{"v":1,"grace":"soon"}`, "grace"},
		"negative grace":          {tasks.KindLockSweep, `{"v":1,"grace":"-1s"}`, "grace"},
		"odd max":                 {tasks.KindLockSweep, `{"v":1,"max":"1"}`, "max"},
		"broken max":              {tasks.KindLockSweep, `{"v":1,"max":1.5}`, "max"},
		"share above one":         {tasks.KindLockSweep, `{"v":1,"max_share":1.5}`, "max_share"},
		"share as string":         {tasks.KindLockSweep, `{"v":1,"max_share":"1"}`, "max_share"},
		"force as number":         {tasks.KindLockSweep, `{"v":1,"force":1}`, "force"},
		"guard as string":         {tasks.KindLockRelease, `{"v":1,"user_id":"u","lock_id":"l","no_guard":"yes"}`, "no_guard"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task, _, err := tasks.Decode(tc.kind, []byte(tc.payload))
			var field *tasks.FieldError
			if !errors.As(err, &field) {
				t.Fatalf("Decode = %+v, %v; want a FieldError", task, err)
			}
			if field.Field != tc.field {
				t.Errorf("the error names %s (%v); want %s", field.Field, err, tc.field)
			}
			if strings.ContainsAny(err.Error(), "\r\n\x00") || len(err.Error()) > 400 {
				t.Errorf("error %q; want one short line of plain text", err)
			}
		})
	}
}

func TestDecode_UnknownKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []tasks.Kind{"", "device:unbindX", "device", "DEVICE:UNBIND", "lock:sweeps"} {
		if _, _, err := tasks.Decode(kind, []byte(`{"v":1,"user_id":"u","device_id":"d"}`)); !errors.Is(err, tasks.ErrUnknownKind) {
			t.Errorf("Decode(%q) = %v; want ErrUnknownKind", kind, err)
		}
	}
}

func TestEncode_RefusesWhatDecodeRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		task   tasks.Task
		intent tasks.Intent
		field  string
	}{
		{tasks.DeviceUnbind{UserID: "u", DeviceID: "../x"}, tasks.Intent{}, "device_id"},
		{tasks.LockRelease{UserID: "u\n", LockID: "l"}, tasks.Intent{}, "user_id"},
		{tasks.LockRelease{UserID: "u", LockID: "l"}, tasks.Intent{NotAfter: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)}, "not_after"},
	} {
		_, err := tasks.Encode(tc.task, tc.intent)
		var field *tasks.FieldError
		if !errors.As(err, &field) || field.Field != tc.field {
			t.Errorf("Encode(%+v) = %v; want a FieldError on %s", tc.task, err, tc.field)
		}
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	got := []string{
		tasks.Identity(tasks.DeviceUnbind{UserID: "u-1", DeviceID: "d-1"}),
		tasks.Identity(tasks.LockRelease{UserID: "a:b", LockID: lockID}),
	}
	want := []string{"device:unbind:u-1:d-1", "lock:release:a:b:" + lockID}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("identities (-want +got):\n%s", diff)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"v":1,"user_id":"u-1","device_id":"1775406005920779393"}`,
		`{"v":1,"user_id":"u","lock_id":"` + lockID + `","enqueued_at":"2026-01-31T08:30:00.005+01:00","not_after":"2026-02-01T00:00:00Z","no_guard":true}`,
		`{"v":1,"user_id":"\u0075","lock_id":"l","no_guard":false}`,
		`{"v":1,"user_id":"u\"\\","device_id":"d","batch":"b-1","index":12}`, `{"v":1,"user_id":"u"}`, `{"v":1,"batch_id":"b"}`,
		`{"v":1,"user_id":"u","lock_id":"l","source":"ledger","expired_at":"2026-01-31T08:30:00.005Z"}`, `{"v":1,"grace":"90s","max":5,"max_share":1e-1,"force":false}`,
		`{"v":2}`, `{"v":1,"user_id":["u"]}`, `{`, `null`, ``, `{"v":1,"v":1}`,
	} {
		for _, kind := range tasks.Kinds() {
			f.Add(string(kind), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		task, intent, err := tasks.Decode(tasks.Kind(kind), payload)
		if err != nil {
			return
		}
		var members map[string]any
		if err := json.Unmarshal(payload, &members); err != nil {
			t.Fatalf("%s decodes to %+v, and encoding/json refuses it: %v", payload, task, err)
		}
		for name, got := range map[string]string{"user_id": task.User(), "batch": intent.BatchRef.Batch} {
			if want, there := members[name]; there && want != got {
				t.Errorf("%s has the %s %q; want %q", payload, name, got, want)
			}
		}
		again, err := tasks.Encode(task, intent)
		if err != nil {
			t.Fatalf("%s decodes to %+v, which does not encode: %v", payload, task, err)
		}
		task2, intent2, err := tasks.Decode(tasks.Kind(kind), again)
		if err != nil {
			t.Fatalf("%s encodes to %s, which does not decode: %v", payload, again, err)
		}
		if diff := cmp.Diff([]any{task, intent}, []any{task2, intent2}); diff != "" {
			t.Errorf("%s decodes to another value after it was encoded again (-first +second):\n%s", payload, diff)
		}
	})
}
