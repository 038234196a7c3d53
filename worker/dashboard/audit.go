package dashboard

import (
	"errors"
	"net/http"

	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/dashboard/access"
)

const auditRows = 100 // on a page

// auditLog shows who changed what.
func (d *Dashboard) auditLog(r *http.Request, _ access.User) (reply, error) {
	page, err := d.cfg.Audit.List(r.Context(), r.URL.Query().Get("before"), auditRows)
	if errors.Is(err, audit.ErrPosition) {
		return reply{}, badRequest("before: %v", err)
	}
	if err != nil {
		return reply{}, err
	}
	return reply{page: "audit.html", title: "Audit", data: page}, nil
}

// audit records a change. err is why it failed, if it did.
func (d *Dashboard) audit(r *http.Request, user access.User, e audit.Entry, err error) {
	e.By, e.Via = user.Name, audit.Dashboard
	d.cfg.Audit.Record(r.Context(), e.With(err))
}
