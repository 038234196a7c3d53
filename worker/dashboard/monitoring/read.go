package monitoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
)

// read answers a GET request of the UI with asynqmon's answer, made harmless.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, endpoint string) {
	if !isReadable(endpoint) {
		fail(w, http.StatusNotFound, "There is nothing to read here.")
		return
	}
	if rest, ok := strings.CutPrefix(endpoint, "queues/"); ok {
		if queue, id, ok := strings.Cut(rest, "/tasks/"); ok {
			h.readTask(w, queue, decodeID(id))
			return
		}
	}
	rec := h.ask(r, "/api/"+endpoint, pageQuery(r.URL.Query()))
	if rec.code != http.StatusOK {
		fail(w, rec.code, visible(strings.TrimSpace(rec.body.String()), maxText))
		return
	}
	dec := json.NewDecoder(&rec.body)
	dec.UseNumber()
	var answer any
	if err := dec.Decode(&answer); err != nil {
		fail(w, http.StatusInternalServerError, "asynqmon's answer: "+visible(err.Error(), maxText))
		return
	}
	writeJSON(w, rewrite("", answer))
}

// ask asks asynqmon by GET.
func (h *Handler) ask(r *http.Request, rel string, query url.Values) *recorder {
	rec := &recorder{header: make(http.Header), code: http.StatusOK}
	ask(r, h.asynqmon, rec, h.cfg.RootPath+rel, query)
	return rec
}

func ask(r *http.Request, handler http.Handler, rec *recorder, path string, query url.Values) {
	handler.ServeHTTP(rec, (&http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: query.Encode()}, Header: http.Header{}, Body: http.NoBody,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "localhost", RequestURI: path,
	}).WithContext(r.Context()))
}

// recorder keeps an answer of asynqmon's.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(code int) { r.code = code }

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// pageQuery returns what asynqmon may know of a query: which page of a list, and how
// long the page is. asynqmon reads a page of any length by one script.
func pageQuery(q url.Values) url.Values {
	const maxPage = 1_000_000
	out := make(url.Values)
	for name, most := range map[string]int{"size": maxSelected, "page": maxPage} {
		if n, err := strconv.Atoi(q.Get(name)); err == nil {
			out.Set(name, strconv.Itoa(min(max(n, 1), most)))
		}
	}
	return out
}

// rewrite makes the strings of an answer harmless. The name is that of the member
// that has the value.
func rewrite(name string, value any) any {
	switch v := value.(type) {
	case string:
		switch name {
		case "id", "task_id":
			return encodeID(v)
		case "payload", "task_payload", "result": // formatPayload has cut them
			return visible(v, 2*maxPayload)
		case "raw_info", "raw_cluster_nodes": // Redis' own texts
			return visible(v, maxBody)
		default:
			return visible(v, maxText)
		}
	case []any:
		for i := range v {
			v[i] = rewrite(name, v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[visible(name, maxMember)] = rewrite(name, member)
		}
		return out
	}
	return value
}

// taskInfo is asynqmon's answer about one task. asynqmon's own endpoint takes no ID
// with a slash.
type taskInfo struct {
	ID            string `json:"id"`
	Queue         string `json:"queue"`
	Type          string `json:"type"`
	Payload       string `json:"payload"`
	State         string `json:"state"`
	MaxRetry      int    `json:"max_retry"`
	Retried       int    `json:"retried"`
	LastErr       string `json:"error_message"`
	LastFailedAt  string `json:"last_failed_at"`
	Timeout       int    `json:"timeout_seconds"`
	Deadline      string `json:"deadline"`
	NextProcessAt string `json:"next_process_at"`
	CompletedAt   string `json:"completed_at"`
	Result        string `json:"result"`
	TTL           int64  `json:"ttl_seconds"`
}

func (h *Handler) readTask(w http.ResponseWriter, queue, id string) {
	info, err := h.inspector.GetTaskInfo(queue, id)
	switch {
	case errors.Is(err, asynq.ErrQueueNotFound), errors.Is(err, asynq.ErrTaskNotFound):
		fail(w, http.StatusNotFound, "The task is not there any more: it is done, or somebody has taken it out.")
		return
	case err != nil:
		h.failed(w, err)
		return
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Format(time.RFC3339)
	}
	out := taskInfo{
		ID: encodeID(info.ID), Queue: visible(info.Queue, maxMember), Type: visible(info.Type, maxMember), Payload: formatPayload(info.Type, info.Payload),
		State: info.State.String(), MaxRetry: info.MaxRetry, Retried: info.Retried, LastErr: visible(info.LastErr, maxText), LastFailedAt: at(info.LastFailedAt),
		Timeout: int(info.Timeout.Seconds()), Deadline: at(info.Deadline), NextProcessAt: at(info.NextProcessAt), CompletedAt: at(info.CompletedAt),
		Result: formatPayload("", info.Result),
	}
	if info.State == asynq.TaskStateCompleted {
		out.TTL = int64(time.Until(info.CompletedAt.Add(info.Retention)).Seconds())
	}
	writeJSON(w, out)
}

func writeJSON(w http.ResponseWriter, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		fail(w, http.StatusInternalServerError, "cannot be written as JSON: "+visible(err.Error(), maxText))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(append(text, '\n')) // fails if the client has gone
}
