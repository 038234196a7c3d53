package monitoring

import (
	"net/http"
	"slices"
	"strings"

	"github.com/kooworker/kooworker/tasks"
)

// The verbs of the endpoints that change something. An endpoint is one task, those
// that are selected (batch_), or all of a state (_all).
const (
	verbPause       = "pause"
	verbResume      = "resume"
	verbDeleteQueue = "delete_queue"
	verbRun         = "run"
	verbBatchRun    = "batch_run"
	verbDelete      = "delete"
	verbBatchDelete = "batch_delete"
	verbDeleteAll   = "delete_all"
	verbRunAll      = "run_all"
)

// action is a request to change something. The zero value is one that asynqmon does not have.
type action struct {
	verb  string
	queue string // a lane's name
	state string // of the tasks: "retry", for example
	group string // of an aggregating task
	id    string
}

// states are those of tasks, as the endpoints name them.
var states = []string{"active", "pending", "scheduled", "retry", "archived", "completed"}

// parseAction reads the path below /api/ of a request that is not GET.
func parseAction(method, endpoint string) action {
	rest, ok := strings.CutPrefix(endpoint, "queues/")
	if !ok || method != http.MethodPost && method != http.MethodDelete {
		return action{}
	}
	queue, rest, hasTasks := strings.Cut(rest, "/")
	if !hasTasks {
		return queueAction(method, queue)
	}
	a := action{queue: queue}
	isState := func(name string) bool { return slices.Contains(states, name) }
	if inGroup, ok := strings.CutPrefix(rest, "groups/"); ok {
		if a.group, rest, ok = strings.Cut(inGroup, "/"); !ok || a.group == "" {
			return action{}
		}
		isState = func(name string) bool { return name == "aggregating" }
	}
	// <state>_tasks:<verb> is about many tasks, <state>_tasks/<id> and
	// <state>_tasks/<id>:<verb> about one.
	if a.state, rest, ok = strings.Cut(rest, "_tasks"); !ok || !isState(a.state) || queue == "" {
		return action{}
	}
	if verb, ok := strings.CutPrefix(rest, ":"); ok {
		if isMany := strings.HasPrefix(verb, "batch_") || strings.HasSuffix(verb, "_all"); !isMany || (verb == verbDeleteAll) != (method == http.MethodDelete) {
			return action{}
		}
		a.verb = verb
		return a
	}
	id, ok := strings.CutPrefix(rest, "/")
	if a.verb = verbDelete; method == http.MethodPost {
		i := strings.LastIndexByte(id, ':')
		if i < 0 {
			return action{}
		}
		id, a.verb = id[:i], id[i+1:]
	}
	if !ok || id == "" || strings.Contains(id, "/") {
		return action{}
	}
	a.id = decodeID(id)
	return a
}

func queueAction(method, name string) action {
	if method == http.MethodDelete {
		return action{verb: verbDeleteQueue, queue: name}
	}
	for _, verb := range []string{verbPause, verbResume} {
		if queue, ok := strings.CutSuffix(name, ":"+verb); ok && queue != "" {
			return action{verb: verb, queue: queue}
		}
	}
	return action{}
}

// isReadable reports whether the path below /api/ is one that asynqmon answers by GET.
func isReadable(endpoint string) bool {
	switch endpoint {
	case "queues", "queue_stats", "servers", "scheduler_entries", "redis_info":
		return true
	}
	part := strings.Split(endpoint, "/")
	if slices.Contains(part, "") {
		return false
	}
	tasksOf := func(states ...string) bool {
		state, ok := strings.CutSuffix(part[len(part)-1], "_tasks")
		return ok && slices.Contains(states, state)
	}
	switch {
	case part[0] == "scheduler_entries":
		return len(part) == 3 && part[2] == "enqueue_events"
	case part[0] != "queues":
		return false
	case len(part) == 2:
		return !strings.Contains(part[1], ":")
	case len(part) == 3:
		return part[2] == "groups" || tasksOf(states...)
	case len(part) == 4:
		return part[2] == "tasks"
	case len(part) == 5:
		return part[2] == "groups" && tasksOf("aggregating")
	}
	return false
}

// refusal says why an action is refused, and what to do instead. It is "" if the
// action is allowed.
func (a action) refusal() string {
	waiting := a.group == "" && (a.state == "scheduled" || a.state == "retry" || a.state == "archived")
	isLetter := a.queue == tasks.QueueDeadLetter && a.state == "retry" && a.group == ""
	switch verb := strings.TrimPrefix(strings.TrimSuffix(a.verb, "_all"), "batch_"); {
	case a.verb == verbPause, a.verb == verbResume:
		return ""
	case a.verb == verbDeleteQueue:
		return "A queue is not deleted here: its tasks would be lost, and their batches would wait for them for ever. " +
			"An empty queue does no harm. To stop a queue, pause it; to take tasks out, use kooworker batch cancel or kooworker cancel."
	case verb == "archive":
		return "Tasks are not archived here: asynq keeps 9,999 archived tasks of a queue and deletes the others, without a receipt. " +
			"To keep tasks from running, pause the queue or hold the batch (kooworker batch hold); to take them out, use kooworker batch cancel or kooworker cancel."
	case verb == "cancel":
		return "A task that is running is not cancelled here: it would only run again two seconds later, and KooDrive may have carried it out already. " +
			"Use kooworker cancel or kooworker batch cancel, which also keep it from running again."
	case a.verb == verbRunAll, a.verb == verbDeleteAll:
		if a.queue == tasks.QueueDeadLetter {
			return "All dead letters at once would block Redis for everybody. Use the page Dead letters, or kooworker dead replay and kooworker dead discard, which go step by step."
		}
		return "All tasks of a queue at once would block Redis for everybody. Select tasks, at most a page of them; or use kooworker cancel or kooworker batch cancel to take them out."
	case a.verb == verbRun, a.verb == verbBatchRun:
		if waiting {
			return ""
		}
		return "Only tasks that are scheduled, wait for a retry, or are archived can be run."
	case a.verb == verbDelete, a.verb == verbBatchDelete:
		if isLetter {
			return ""
		}
		return "Only dead letters are deleted here, on the page Retry of queue " + tasks.QueueDeadLetter + ". Any other task would vanish without a receipt, and its batch would wait for it for ever. " +
			"Use kooworker cancel or kooworker batch cancel."
	default:
		return "There is no such action here."
	}
}
