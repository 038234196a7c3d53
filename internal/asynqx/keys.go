package asynqx

import (
	"hash/fnv"
	"os"
	"strconv"
	"strings"
	"time"
)

// KeyPrefix is what every key of asynq begins with.
const KeyPrefix = "asynq:"

// The keys of asynq that belong to no queue.
const (
	// AllQueuesKey is a set: the names of the queues.
	AllQueuesKey = "asynq:queues"
	// AllServersKey is a sorted set: the key of each server's info, by when the
	// server's heartbeat expires, in Unix seconds.
	AllServersKey = "asynq:servers"
	// AllWorkersKey is a sorted set like AllServersKey: the key of what each server
	// works on.
	AllWorkersKey = "asynq:workers"
	// AllSchedulersKey is a sorted set like AllServersKey: the key of each scheduler's
	// entries.
	AllSchedulersKey = "asynq:schedulers"
	// SchedulerHistoryPrefix is what the key of a schedule's history begins with: a
	// sorted set of what it has enqueued, by the time in Unix seconds.
	SchedulerHistoryPrefix = "asynq:scheduler_history:"
)

// ServerTasksKey names the hash of the tasks that a server works on, by ID, given the
// key of the server's info. Both expire HeartbeatTTL after a heartbeat, by Redis' clock.
func ServerTasksKey(key string) string {
	return "asynq:workers" + strings.TrimPrefix(key, AllServersKey)
}

// ServerProcess returns the process of a server, given the key of the server's
// info. Two processes have the same name only if one of them replaced the other.
func ServerProcess(key string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(key, AllServersKey+":{"), "}")
	if end := strings.LastIndexByte(name, ':'); end >= 0 {
		return name[:end] // without the server's own ID
	}
	return name
}

// ThisProcess returns the name that ServerProcess gives to the servers of this
// process.
func ThisProcess() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host" // as asynq calls it
	}
	return host + ":" + strconv.Itoa(os.Getpid())
}

// LeaseStep is how far apart the leases are that package fetch writes, in µs. What is left
// of a lease when it is divided by that is its process's LeaseTag: so package recovery can
// tell whose a lease is, and in which order the tasks of a process begin. asynq writes whole
// seconds, which have the tag 0.
const LeaseStep = 32

// LeaseTag returns the tag of a process, which ServerProcess or ThisProcess names: 1 to
// LeaseStep-1. Several processes may have the same one.
func LeaseTag(process string) int64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(process))
	return 1 + int64(h.Sum32()%(LeaseStep-1))
}

// The fields of a task's hash that this program reads. asynq sets and deletes
// single fields, and deletes the whole hash when the task is done; so further
// fields stay until then.
const (
	// FieldMsg holds asynq's message; see ParseMessage.
	FieldMsg = "msg"
	// FieldState holds the state: active, pending, scheduled, retry, archived,
	// completed or aggregating.
	FieldState = "state"
)

const (
	// HeartbeatTTL is how long a server's heartbeat lasts. asynq sends one every 5 s.
	HeartbeatTTL = 10 * time.Second
	// LeaseTTL is how long a task's lease lasts. Each heartbeat extends it.
	LeaseTTL = 30 * time.Second
)

// The keys of one queue. All of them carry its hash tag, so that a Redis cluster
// keeps them together.

// PendingKey names a list of task IDs. The next one to run is at the right.
func PendingKey(queue string) string { return queueKey(queue, "pending") }

// ActiveKey names a list: the IDs of the tasks that run.
func ActiveKey(queue string) string { return queueKey(queue, "active") }

// LeaseKey names a sorted set: the IDs of the tasks that run, by when their
// lease ends, in Unix seconds.
func LeaseKey(queue string) string { return queueKey(queue, "lease") }

// ScheduledKey names a sorted set: the IDs of the tasks that wait for their
// first run, by when they are due, in Unix seconds.
func ScheduledKey(queue string) string { return queueKey(queue, "scheduled") }

// RetryKey names a sorted set: the IDs of the tasks that failed and wait for
// another run, by when they are due, in Unix seconds.
func RetryKey(queue string) string { return queueKey(queue, "retry") }

// ArchivedKey names a sorted set: the IDs of the archived tasks, by when that
// was, in Unix seconds.
func ArchivedKey(queue string) string { return queueKey(queue, "archived") }

// CompletedKey names a sorted set: the IDs of the tasks that are kept although
// they are done, by when they are deleted, in Unix seconds.
func CompletedKey(queue string) string { return queueKey(queue, "completed") }

// ProcessedKey names a counter: how many tasks of the queue have ended a run, well or not.
func ProcessedKey(queue string) string { return queueKey(queue, "processed") }

// FailedKey names a counter: how many of these runs have failed.
func FailedKey(queue string) string { return queueKey(queue, "failed") }

// PausedKey names a key that exists while the queue is paused.
func PausedKey(queue string) string { return queueKey(queue, "paused") }

// TaskKeyPrefix is what the keys of all tasks of a queue begin with. The task's
// ID follows.
func TaskKeyPrefix(queue string) string { return queueKey(queue, "t:") }

// TaskKey names the hash of one task.
func TaskKey(queue, id string) string { return TaskKeyPrefix(queue) + id }

func queueKey(queue, name string) string { return "asynq:{" + queue + "}:" + name }
