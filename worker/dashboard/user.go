package dashboard

import (
	"errors"
	"net/http"
	"slices"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/userhistory"
)

// userPage is everything that is known of one user.
type userPage struct {
	UserID string
	Events []tasks.Receipt // the latest first
	Total  int             // of which Events are the latest
	Dead   int
	Locks  []locks.Lock
}

const shownEvents = 500

func (d *Dashboard) user(r *http.Request, _ access.User) (reply, error) {
	p := userPage{UserID: r.URL.Query().Get("user_id")}
	out := reply{page: "user.html", title: "User"}
	if p.UserID == "" {
		out.data = p
		return out, nil
	}
	events, err := userhistory.Read(r.Context(), d.cfg.Redis, p.UserID, userhistory.Filter{})
	if err != nil {
		return reply{}, err
	}
	slices.Reverse(events)
	p.Total = len(events)
	p.Events = events[:min(len(events), shownEvents)]
	latest := make(map[string]bool) // the tasks whose latest outcome was seen
	for _, e := range events {
		key := string(e.Kind) + " " + e.Batch + " " + e.Target
		if !latest[key] && e.Outcome == tasks.Dead {
			p.Dead++
		}
		latest[key] = true
	}
	p.Locks, err = d.locks.ListByUser(r.Context(), p.UserID)
	if _, isNoID := errors.AsType[*tasks.FieldError](err); err != nil && !isNoID { // such a user holds no lock, but may have dead letters
		return reply{}, err
	}
	out.data = p
	return out, nil
}
