package dashboard

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/internal/pauses"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/overview"
)

// queuesPage shows the queues, and who has paused which.
type queuesPage struct {
	Queues []overview.Queue
	Paused []pauses.Group
	For    []choice
}

// pauseTimes are the times after which a pause ends by itself.
var pauseTimes = []choice{{"", "until somebody resumes it"}, {"15m", "15 minutes"}, {"1h", "1 hour"}, {"4h", "4 hours"}, {"24h", "1 day"}, {"168h", "1 week"}}

const listReload = 5 * time.Second

func (d *Dashboard) queues(r *http.Request, _ access.User) (reply, error) {
	p := queuesPage{For: pauseTimes}
	var err error
	if p.Queues, err = overview.ReadQueues(r.Context(), d.cfg.Redis, false); err != nil {
		return reply{}, err
	}
	for _, q := range p.Queues {
		p.Paused = append(p.Paused, q.Pauses...)
	}
	return reply{page: "queues.html", title: "Queues", data: p, reload: listReload}, nil
}

// queuesOf returns the queues that a form names.
func queuesOf(r *http.Request) ([]string, error) {
	name := r.PostFormValue("queue")
	if name == "all" {
		return tasks.Queues(), nil
	}
	if !slices.Contains(tasks.Queues(), name) {
		return nil, badRequest("%q is not a queue; the queues are %s", printable(name), strings.Join(tasks.Queues(), ", "))
	}
	return []string{name}, nil
}

// reasonOf returns the reason that a form gives; a change needs one.
func reasonOf(r *http.Request) (string, error) {
	reason, err := formText(r, "why", maxReason)
	if err == nil && reason == "" {
		err = badRequest("why: it is empty; want a line that tells others why")
	}
	return reason, err
}

func (d *Dashboard) pauseQueues(r *http.Request, user access.User) (reply, error) {
	names, err := queuesOf(r)
	if err != nil {
		return reply{}, err
	}
	reason, err := reasonOf(r)
	if err != nil {
		return reply{}, err
	}
	order := pauses.Order{By: user.Name, Reason: reason}
	if text := r.PostFormValue("for"); text != "" {
		if order.For, err = time.ParseDuration(text); err != nil || order.For < time.Second || order.For > pauses.MaxFor {
			return reply{}, badRequest("for: %q; want a time such as 4h, at most 365 days", printable(text))
		}
	}
	err = pauses.Set(r.Context(), d.cfg.Redis, names, order)
	d.audit(r, user, audit.Entry{Action: "queues paused", Subject: strings.Join(names, ", "), Reason: reason}, err)
	return reply{redirect: "/queues?done=paused"}, err
}

func (d *Dashboard) resumeQueues(r *http.Request, user access.User) (reply, error) {
	names, err := queuesOf(r)
	if err != nil {
		return reply{}, err
	}
	reason, err := formText(r, "why", maxReason)
	if err != nil {
		return reply{}, err
	}
	err = pauses.Remove(r.Context(), d.cfg.Redis, names)
	d.audit(r, user, audit.Entry{Action: "queues resumed", Subject: strings.Join(names, ", "), Reason: reason}, err)
	return reply{redirect: "/queues?done=resumed"}, err
}
