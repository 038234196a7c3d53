package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/asynqx"
	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard/access"
)

const (
	// maxSelected is how many tasks one request may name: the UI shows at most so many
	// on a page.
	maxSelected = 100
	// maxBody is asynqmon's limit.
	maxBody = 1_000_000
	// noticeHeader has a text that the page shows, percent-encoded.
	noticeHeader = "Kooworker-Notice"
	pauseReason  = "from the monitoring page"
)

// act carries out what an operator wants, or says why not. It answers as asynqmon does.
func (h *Handler) act(w http.ResponseWriter, r *http.Request, user access.User, a action) {
	if why := a.refusal(); why != "" {
		fail(w, http.StatusForbidden, why)
		return
	}
	// What has begun is done to its end, and is audited, though the browser is closed.
	ctx := context.WithoutCancel(r.Context())
	switch a.verb {
	case verbPause:
		h.pause(ctx, w, user, a)
	case verbResume:
		h.resume(ctx, w, user, a)
	case verbRun:
		h.runOne(ctx, w, user, a)
	case verbDelete:
		h.discardOne(ctx, w, user, a)
	case verbBatchRun, verbBatchDelete:
		shown, err := selected(w, r)
		if err != nil {
			fail(w, http.StatusBadRequest, visible(err.Error(), maxText))
			return
		}
		if a.verb == verbBatchRun {
			h.runMany(ctx, w, user, a, shown)
		} else {
			h.discardMany(ctx, w, user, shown)
		}
	}
}

// selected reads the IDs of a request about several tasks, as the UI writes them, each once.
func selected(w http.ResponseWriter, r *http.Request) ([]string, error) {
	var body struct {
		IDs []string `json:"task_ids"`
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		return nil, fmt.Errorf(`the body: %w; want {"task_ids": […]}`, err)
	}
	slices.Sort(body.IDs)
	ids := slices.Compact(body.IDs)
	if len(ids) > maxSelected {
		return nil, fmt.Errorf("%d tasks; want at most %d in one request", len(ids), maxSelected)
	}
	return ids, nil
}

// queueOf returns the queue that a lane belongs to, and what to call it in a
// sentence. It is not ok if there is no such queue; then it has answered.
func queueOf(w http.ResponseWriter, lane string) (queue, name string, ok bool) {
	queue, _ = tasks.SplitQueue(lane)
	if !slices.Contains(tasks.Queues(), queue) {
		fail(w, http.StatusNotFound, fmt.Sprintf("%s is no queue of kooworker's; want one of %s.", visible(lane, maxMember), strings.Join(tasks.Queues(), ", ")))
		return "", "", false
	}
	name = "Queue " + queue
	if n := len(tasks.LanesOf(queue)); n > 1 {
		name += fmt.Sprintf(", with all its %d lanes,", n)
	}
	return queue, name, true
}

func (h *Handler) pause(ctx context.Context, w http.ResponseWriter, user access.User, a action) {
	queue, name, ok := queueOf(w, a.queue)
	if !ok {
		return
	}
	lanes, err := pauses.Read(ctx, h.cfg.Redis)
	if err != nil {
		h.failed(w, err)
		return
	}
	// The page may be older than another one's pause, whose reason and end must stay.
	if groups := lanes.Of(tasks.LanesOf(queue)); len(groups) == 1 && groups[0].IsWhole() {
		done(w, "Nothing to do: "+visible(groups[0].String(), maxText)+".")
		return
	}
	if err := pauses.Set(ctx, h.cfg.Redis, []string{queue}, pauses.Order{By: user.Name, Reason: pauseReason}); err != nil {
		h.failed(w, err)
		return
	}
	h.audit(ctx, user, actionPause, 1, "queue "+queue, nil)
	done(w, name+" is paused until somebody resumes it.")
}

func (h *Handler) resume(ctx context.Context, w http.ResponseWriter, user access.User, a action) {
	queue, name, ok := queueOf(w, a.queue)
	if !ok {
		return
	}
	if err := pauses.Remove(ctx, h.cfg.Redis, []string{queue}); err != nil {
		h.failed(w, err)
		return
	}
	h.audit(ctx, user, actionResume, 1, "queue "+queue, nil)
	done(w, name+" is resumed.")
}

func (h *Handler) runOne(ctx context.Context, w http.ResponseWriter, user access.User, a action) {
	if err := h.inspector.RunTask(a.queue, a.id); err != nil {
		h.cannotRun(w, a, err)
		return
	}
	h.ran(ctx, user, a, []string{a.id})
	w.WriteHeader(http.StatusNoContent)
}

// cannotRun says why a task was not run. asynq's error does not tell a task that runs
// already from an outage.
func (h *Handler) cannotRun(w http.ResponseWriter, a action, err error) {
	if errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound) {
		fail(w, http.StatusNotFound, "The task is not there any more: it is done, or somebody has taken it out.")
		return
	}
	info, lookErr := h.inspector.GetTaskInfo(a.queue, a.id)
	if lookErr == nil && (info.State == asynq.TaskStateActive || info.State == asynq.TaskStatePending) {
		fail(w, http.StatusConflict, "The task is "+info.State.String()+" already.")
		return
	}
	h.failed(w, err)
}

func (h *Handler) runMany(ctx context.Context, w http.ResponseWriter, user access.User, a action, shown []string) {
	answer := struct {
		Pending []string `json:"pending_ids"`
		Errors  []string `json:"error_ids"`
	}{[]string{}, []string{}}
	var ran []string
	for _, text := range shown {
		id := decodeID(text)
		if err := h.inspector.RunTask(a.queue, id); err != nil {
			answer.Errors = append(answer.Errors, text)
			continue
		}
		ran, answer.Pending = append(ran, id), append(answer.Pending, text)
	}
	if len(ran) > 0 {
		h.ran(ctx, user, a, ran)
	}
	if n := len(answer.Errors); n > 0 {
		notice(w, fmt.Sprintf("%d of %d tasks were not run: they run already, or are not there any more.", n, len(shown)))
	}
	writeJSON(w, answer)
}

func (h *Handler) ran(ctx context.Context, user access.User, a action, ids []string) {
	did := actionRun
	if a.queue == tasks.QueueDeadLetter {
		did = actionReplay
	}
	h.audit(ctx, user, did, len(ids), "queue "+visible(a.queue, maxMember)+": "+listed(ids), nil)
}

func (h *Handler) discardOne(ctx context.Context, w http.ResponseWriter, user access.User, a action) {
	switch n, err := h.discard(ctx, user, []string{a.id}); {
	case err != nil:
		h.failed(w, err)
	case n == 0:
		fail(w, http.StatusConflict, "The dead letter was not discarded: it is being replayed, or is not there any more.")
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (h *Handler) discardMany(ctx context.Context, w http.ResponseWriter, user access.User, shown []string) {
	answer := struct {
		Deleted []string `json:"deleted_ids"`
		Failed  []string `json:"failed_ids"`
	}{[]string{}, []string{}}
	if len(shown) > 0 { // no IDs might be taken for no filter
		n, err := h.discard(ctx, user, decodeIDs(shown))
		if err != nil && n == 0 {
			h.failed(w, err)
			return
		}
		var left map[string]bool
		if n < len(shown) {
			if left, err = h.remaining(ctx, shown); err != nil {
				h.failed(w, err)
				return
			}
			notice(w, fmt.Sprintf("%d of %d dead letters were not discarded: they are being replayed, or are not there any more.", len(shown)-n, len(shown)))
		}
		for _, text := range shown {
			if left[text] {
				answer.Failed = append(answer.Failed, text)
			} else {
				answer.Deleted = append(answer.Deleted, text)
			}
		}
	}
	writeJSON(w, answer)
}

func (h *Handler) discard(ctx context.Context, user access.User, ids []string) (int, error) {
	n, err := h.cfg.Discard(ctx, ids)
	if n > 0 || err != nil { // on an error some may be discarded, or the ledger may know them as such
		h.audit(ctx, user, actionDiscard, n, listed(ids), err)
	}
	return n, err
}

// remaining returns which dead letters are still there.
func (h *Handler) remaining(ctx context.Context, shown []string) (map[string]bool, error) {
	answers := make(map[string]*redis.IntCmd, len(shown))
	_, err := h.cfg.Redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, text := range shown {
			answers[text] = p.Exists(ctx, asynqx.TaskKey(tasks.QueueDeadLetter, decodeID(text)))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look which dead letters are left: %w", err)
	}
	left := make(map[string]bool, len(shown))
	for text, answer := range answers {
		left[text] = answer.Val() == 1
	}
	return left, nil
}

// audit records a change.
func (h *Handler) audit(ctx context.Context, user access.User, action string, count int, subject string, err error) {
	e := audit.Entry{By: user.Name, Via: audit.Asynqmon, Action: action, Subject: subject, Count: int64(count)}
	h.cfg.Audit(ctx, e.With(err))
}

// listed returns the first of some IDs, and how many more there are.
func listed(ids []string) string {
	const most = 10
	var shown []string
	for _, id := range ids[:min(len(ids), most)] {
		shown = append(shown, visible(id, maxMember))
	}
	text := strings.Join(shown, ", ")
	if more := len(ids) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// failed answers after an error that is not the user's.
func (h *Handler) failed(w http.ResponseWriter, err error) {
	fail(w, http.StatusInternalServerError, visible(err.Error(), maxText))
}

// notice gives the page a text to show.
func notice(w http.ResponseWriter, text string) { w.Header().Set(noticeHeader, url.PathEscape(text)) }

// done answers that all is done, with a text to show.
func done(w http.ResponseWriter, text string) {
	notice(w, text)
	w.WriteHeader(http.StatusNoContent)
}
