package doctor_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/doctor"
	"github.com/kooworker/kooworker/worker/fleet"
)

func TestMain(m *testing.M) {
	redis.SetLogger(silence{}) // the outages are on purpose
	goleak.VerifyTestMain(m)
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// bundle is a Redis, and the configuration of a doctor.
type bundle struct {
	t      *testing.T
	server *redistest.Server
	rdb    *redis.Client
	cfg    doctor.Config
}

// setup starts a Redis that is well, apart from what the args change.
func setup(t *testing.T, args ...string) *bundle {
	t.Helper()
	server := redistest.Start(t, append([]string{"--appendonly", "yes"}, args...)...)
	return &bundle{t: t, server: server, rdb: server.Client(), cfg: doctor.Config{Redis: server.Client()}}
}

func (b *bundle) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// fix finds what is wrong, repairs it, and returns what it says of that.
func (b *bundle) fix() (texts []string) {
	b.t.Helper()
	d, err := doctor.New(b.cfg)
	b.must(err)
	d.Run(b.t.Context())
	fixed, err := d.Fix(b.t.Context())
	b.must(err)
	for _, f := range fixed {
		texts = append(texts, f.Text)
	}
	return texts
}

// run returns the findings by check.
func (b *bundle) run() findings {
	b.t.Helper()
	d, err := doctor.New(b.cfg)
	b.must(err)
	out := findings{t: b.t, byName: make(map[string][]doctor.Finding)}
	for _, f := range d.Run(b.t.Context()) {
		out.byName[f.Name] = append(out.byName[f.Name], f)
		if f.Detail == "" || f.Hint == "" && (f.Status == doctor.Error || f.Status == doctor.Warning) {
			b.t.Errorf("%+v; want a detail, and a hint if something is wrong", f)
		}
	}
	return out
}

type findings struct {
	t      *testing.T
	byName map[string][]doctor.Finding
}

// want fails unless a check has a finding with this status and these texts in detail or hint.
func (f findings) want(name string, status doctor.Status, texts ...string) {
	f.t.Helper()
	for _, got := range f.byName[name] {
		if got.Status == status && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(got.Detail+" "+got.Hint, text) }) {
			return
		}
	}
	f.t.Errorf("%s: %+v; want %s with %q", name, f.byName[name], status, texts)
}

// wantOnly fails if another check than these has found something wrong.
func (f findings) wantOnly(names ...string) {
	f.t.Helper()
	for name, all := range f.byName {
		for _, got := range all {
			if (got.Status == doctor.Error || got.Status == doctor.Warning) && !slices.Contains(names, name) {
				f.t.Errorf("%+v; want nothing wrong but %v", got, names)
			}
		}
	}
}

// aWorker writes what a living worker writes.
func (b *bundle) aWorker(id string, r fleet.Report) {
	b.t.Helper()
	b.must(b.rdb.ZAdd(b.t.Context(), "{kooworker:fleet}:workers", redis.Z{Score: float64(time.Now().Add(time.Hour).UnixMilli()), Member: id}).Err())
	text, err := json.Marshal(r)
	b.must(err)
	b.must(b.rdb.Set(b.t.Context(), "{kooworker:fleet}:report:"+id, text, time.Minute).Err())
}

func (b *bundle) enqueue(queue, id string) {
	b.t.Helper()
	payload, err := tasks.Encode(tasks.DeviceUnbind{UserID: "u", DeviceID: id}, tasks.Intent{})
	b.must(err)
	_, err = asynq.NewClientFromRedisClient(b.rdb).EnqueueContext(b.t.Context(), asynq.NewTask(string(tasks.KindDeviceUnbind), payload),
		asynqx.TaskOptions(queue, id, time.Time{})...)
	b.must(err)
}
