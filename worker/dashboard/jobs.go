package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/worker/audit"
	"github.com/kooworker/kooworker/worker/bulk"
	"github.com/kooworker/kooworker/worker/dashboard/access"
	"github.com/kooworker/kooworker/worker/deadletter"
)

// orderPage asks whether all letters that match should be replayed, or discarded.
type orderPage struct {
	Kind   bulk.Kind
	Filter letterFilter
	Fields []field // of the filter, with absolute times
	Count  deadletter.Count
	All    bool // the filter selects everything
}

const countBudget = 5 * time.Second

// confirm shows how many letters match, and asks why.
func (d *Dashboard) confirm(kind bulk.Kind) handler {
	return func(r *http.Request, user access.User) (reply, error) {
		if !user.IsOperator() {
			return reply{}, errViewer
		}
		p := orderPage{Kind: kind}
		var err error
		if p.Filter, err = letterFilterOf(r.URL.Query().Get).fixed(time.Now()); err != nil {
			return reply{}, err
		}
		filter, err := p.Filter.filter(time.Time{})
		if err != nil {
			return reply{}, err
		}
		// What dies after this is not what is confirmed.
		p.All = filter.Empty()
		if p.Filter.DeadBefore == "" {
			filter.DeadBefore = time.Now().Truncate(time.Millisecond)
			p.Filter.DeadBefore = filter.DeadBefore.UTC().Format(time.RFC3339Nano)
		}
		p.Fields = p.Filter.fields()
		if p.Count, err = d.letters.Count(r.Context(), filter, deadletter.Position{}, countBudget); err != nil {
			return reply{}, err
		}
		return reply{page: "order.html", title: titles[kind], data: p}, nil
	}
}

var titles = map[bulk.Kind]string{bulk.Replay: "Replay dead letters", bulk.Discard: "Discard dead letters"}

// order orders a job. It goes on without the browser.
func (d *Dashboard) order(kind bulk.Kind) handler {
	return func(r *http.Request, user access.User) (reply, error) {
		reason, err := reasonOf(r)
		if err != nil {
			return reply{}, err
		}
		form := letterFilterOf(r.PostFormValue)
		filter, err := form.filter(time.Now())
		if err != nil {
			return reply{}, err
		}
		o := bulk.Order{Kind: kind, Filter: filter, All: filter.Empty() && r.PostFormValue("all") == "yes", By: user.Name, Reason: reason}
		if o.Rate, err = formNumber(r, "rate"); err != nil {
			return reply{}, err
		}
		if kind == bulk.Replay {
			canary, err := formNumber(r, "canary")
			if err != nil {
				return reply{}, err
			}
			percent, err := formNumber(r, "min_success")
			if err != nil {
				return reply{}, err
			}
			o.Canary, o.MinSuccess = int(canary), percent/100
		}
		id, err := d.jobs.Order(r.Context(), o)
		if invalid, ok := errors.AsType[*bulk.InvalidError](err); ok {
			return reply{}, badRequest("%v", invalid)
		}
		d.audit(r, user, audit.Entry{Action: string(kind) + " of dead letters ordered", Subject: form.String(), Reason: reason}, err)
		return reply{redirect: "/jobs/" + id}, err
	}
}

// auditJob records how a job has ended.
func (d *Dashboard) auditJob(ctx context.Context, j bulk.Job) {
	d.cfg.Audit.Record(ctx, audit.Entry{
		By: j.By, Via: audit.Dashboard, Action: fmt.Sprintf("%s of dead letters %s", j.Kind, j.State), Subject: "job " + j.ID + ", " + formOf(j.Order.Filter).String(),
		Count: j.Done, Reason: j.Order.Reason, Error: j.Error,
	})
}

// formNumber returns a number of a form; an empty field is 0.
func formNumber(r *http.Request, name string) (float64, error) {
	text, err := formText(r, name, maxReason)
	if err != nil || text == "" {
		return 0, err
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, badRequest("%s: %q; want a number", name, text)
	}
	return n, nil
}

// jobsPage lists jobs.
type jobsPage struct{ Jobs []bulk.Job }

// jobPage shows one.
type jobPage struct {
	bulk.Job
	Filter letterFilter
}

const jobReload = time.Second

func (d *Dashboard) jobList(r *http.Request, _ access.User) (reply, error) {
	jobs, err := d.jobs.List(r.Context())
	return reply{page: "jobs.html", title: "Jobs", data: jobsPage{jobs}, reload: listReload}, err
}

func (d *Dashboard) job(r *http.Request, _ access.User) (reply, error) {
	j, err := d.jobs.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return reply{}, err
	}
	out := reply{page: "job.html", title: "Job " + j.ID, data: jobPage{j, formOf(j.Order.Filter)}}
	if j.State.IsOpen() {
		out.reload = jobReload
	}
	return out, nil
}

// formOf writes a filter as a form has it.
func formOf(f deadletter.Filter) letterFilter {
	out := letterFilter{UserID: f.UserID, Batch: f.Batch}
	for _, reason := range f.Reasons {
		out.Reason = string(reason)
	}
	for _, kind := range f.Kinds {
		out.Kind = string(kind)
	}
	for _, id := range f.IDs {
		out.ID = id
	}
	if !f.DeadBefore.IsZero() {
		out.DeadBefore = f.DeadBefore.UTC().Format(time.RFC3339)
	}
	if !f.DeadAfter.IsZero() {
		out.DeadAfter = f.DeadAfter.UTC().Format(time.RFC3339)
	}
	return out
}

func (d *Dashboard) stopJob(r *http.Request, user access.User) (reply, error) {
	id := r.PathValue("id")
	reason, err := reasonOf(r)
	if err != nil {
		return reply{}, err
	}
	err = d.jobs.Stop(r.Context(), id, user.Name, reason)
	if errors.Is(err, bulk.ErrEnded) {
		return reply{}, badRequest("%v", err)
	}
	d.audit(r, user, audit.Entry{Action: "job stopped", Subject: id, Reason: reason}, err)
	return reply{redirect: "/jobs/" + id}, err
}
