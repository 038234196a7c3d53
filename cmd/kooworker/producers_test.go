package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// python runs an example of docs/examples, for which this test binary is kooworker.
func python(t *testing.T, server *redistest.Server, example string, args ...string) (lines []string, code int) {
	t.Helper()
	cmd := exec.Command("python3", append([]string{filepath.Join("../../docs/examples", example)}, args...)...)
	cmd.Env = append(os.Environ(), "KOOWORKER="+os.Args[0], asKooworker+"=1", "REDIS_URL="+server.URL(), "PYTHONWARNINGS=error", "PYTHONDONTWRITEBYTECODE=1")
	var stderr redistest.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatalf("run python3, which make test installs: %v", err)
	}
	if strings.Contains(stderr.String(), "Traceback") {
		t.Errorf("%s:\n%s", example, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), cmd.ProcessState.ExitCode()
}

// Both examples of docs/producers.md unbind devices, and their orders are duplicates of each
// other and of those of Go.
func TestProducers_Examples(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	sim, url := startSimulator(t)
	for _, device := range []string{"d-1", "d-2", "d-3"} {
		sim.Bind("u", simulator.Device{DeviceID: device})
	}
	for _, tc := range []struct {
		example string
		devices []string
		want    []string
		code    int
	}{
		{"enqueue_pipe.py", []string{"d-1", "d-1", "../x"}, []string{
			"d-1: enqueued device:unbind:u:d-1", "d-1: duplicate device:unbind:u:d-1",
			`../x: rejected device_id is "../x"; want 1 to 64 letters, digits, hyphens or underscores`,
		}, exitPartial},
		{"enqueue_redis.py", []string{"d-1", "d-2", "d-2"}, []string{
			"d-1: duplicate device:unbind:u:d-1", "d-2: enqueued device:unbind:u:d-2", "d-2: duplicate device:unbind:u:d-2",
		}, exitDone},
		{"enqueue_pipe.py", []string{"d-2", "d-3"}, []string{
			"d-2: duplicate device:unbind:u:d-2", "d-3: enqueued device:unbind:u:d-3",
		}, exitDone},
	} {
		got, code := python(t, server, tc.example, append([]string{"u"}, tc.devices...)...)
		if diff := cmp.Diff(tc.want, got); diff != "" || code != tc.code {
			t.Errorf("%s: exit %d; want %d (-want +got):\n%s", tc.example, code, tc.code, diff)
		}
	}
	r := kooworker(t, "", "enqueue", "unbind", "--user-id", "u", "--device-id", "d-2", "--redis-url", server.URL())
	if want := "duplicate: device:unbind:u:d-2 is outstanding already\n"; r.stdout != want {
		t.Errorf("the same by the command line: %+v; want %q", r, want)
	}
	startWorker(t, server, url)
	redistest.Eventually(t, 20*time.Second, "all devices are unbound", func() bool { return sim.Stats().Unbound == 3 })
	redistest.Eventually(t, 20*time.Second, "the queue is empty", func() bool { return queuedUnbinds(t, server) == 0 })
}

// The example that writes into Redis stores byte for byte what asynq's client stores.
func TestProducers_RedisExampleStoresWhatAsynqStores(t *testing.T) {
	t.Parallel()
	theirs, ours := redistest.Start(t), redistest.Start(t)
	const id = "device:unbind:u:d-1"
	if lines, code := python(t, theirs, "enqueue_redis.py", "u", "d-1"); code != exitDone {
		t.Fatalf("exit %d, %v; want 0", code, lines)
	}
	info, err := asynq.NewInspectorFromRedisClient(theirs.Client()).GetTaskInfo(tasks.QueueUnbind, id)
	if err != nil {
		t.Fatal(err)
	}
	task := asynq.NewTask(string(tasks.KindDeviceUnbind), info.Payload)
	if _, err := asynq.NewClientFromRedisClient(ours.Client()).EnqueueContext(t.Context(), task, asynqx.TaskOptions(tasks.QueueUnbind, id, time.Time{})...); err != nil {
		t.Fatal(err)
	}
	stored := func(server *redistest.Server) map[string]any {
		rdb, ctx := server.Client(), t.Context()
		hash := rdb.HGetAll(ctx, asynqx.TaskKey(tasks.QueueUnbind, id)).Val()
		since, _ := strconv.ParseInt(hash["pending_since"], 10, 64)
		hash["pending_since"] = strconv.FormatBool(time.Since(time.Unix(0, since)).Abs() < time.Minute)
		return map[string]any{
			"task": hash, "keys": rdb.DBSize(ctx).Val(), "queues": rdb.SMembers(ctx, asynqx.AllQueuesKey).Val(),
			"pending": rdb.LRange(ctx, asynqx.PendingKey(tasks.QueueUnbind), 0, -1).Val(),
		}
	}
	if diff := cmp.Diff(stored(ours), stored(theirs)); diff != "" {
		t.Errorf("Redis (-asynq +example):\n%s", diff)
	}
	_, in, err := tasks.Decode(tasks.KindDeviceUnbind, info.Payload)
	if err != nil || time.Since(in.EnqueuedAt).Abs() > time.Minute {
		t.Errorf("the payload %s says %+v, %v; want an order of now", info.Payload, in, err)
	}
}

// An outstanding task may not do what an order of the example wants. Then the order is
// stored as well.
func TestProducers_RedisExampleTrustsNoOtherTask(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := asynq.NewClientFromRedisClient(server.Client())
	old := time.Now().Add(-11 * time.Minute).UTC().Format(time.RFC3339Nano)
	later := time.Now().Add(time.Hour)
	for device, tc := range map[string]struct {
		members   string
		runAt     time.Time
		duplicate bool
	}{
		"guarded":   {`,"enqueued_at":"` + time.Now().UTC().Format(time.RFC3339Nano) + `"`, time.Time{}, true},
		"old":       {`,"enqueued_at":"` + old + `"`, time.Time{}, false},
		"unguarded": {`,"no_guard":true,"enqueued_at":"` + old + `"`, time.Time{}, true},
		"timeless":  {``, time.Time{}, true},
		"expiring":  {`,"not_after":"` + later.UTC().Format(time.RFC3339) + `"`, time.Time{}, false},
		"later":     {``, later, false},
	} {
		id := "device:unbind:u:" + device
		task := asynq.NewTask("device:unbind", []byte(`{"v":1,"user_id":"u","device_id":"`+device+`"`+tc.members+`}`))
		if _, err := client.EnqueueContext(t.Context(), task, asynqx.TaskOptions(tasks.QueueUnbind, id, tc.runAt)...); err != nil {
			t.Fatal(err)
		}
		lines, code := python(t, server, "enqueue_redis.py", "u", device)
		isDuplicate := lines[0] == device+": duplicate "+id
		isOwn := strings.HasPrefix(lines[0], device+": enqueued "+id+":")
		if code != exitDone || isDuplicate != tc.duplicate || isOwn == tc.duplicate {
			t.Errorf("%s: exit %d, %q; want a duplicate: %t, else an ID of its own", device, code, lines, tc.duplicate)
		}
	}
}

// The fields of docs/producers.md are those of asynq's message.
func TestProducersDoc_Message(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/producers.md")
	if err != nil {
		t.Fatal(err)
	}
	message, err := protoregistry.GlobalTypes.FindMessageByName("asynq.TaskMessage")
	if err != nil {
		t.Fatal(err)
	}
	documented := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9]+) \\| ([a-z0-9]+) \\|").FindAllStringSubmatch(string(text), -1)
	for _, field := range regexp.MustCompile("`([a-z_]+)` \\(([0-9]+)\\)").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, append(field, ""))
	}
	fields := message.Descriptor().Fields()
	if len(documented) != fields.Len() {
		t.Errorf("%d fields are documented; want the %d of the message", len(documented), fields.Len())
	}
	for _, field := range documented {
		got := fields.ByName(protoreflect.Name(field[1]))
		if got == nil || strconv.Itoa(int(got.Number())) != field[2] || field[3] != "" && got.Kind().String() != field[3] {
			t.Errorf("%q: asynq has %v", field[0], got)
		}
	}
}
