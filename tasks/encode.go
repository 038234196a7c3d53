package tasks

import (
	"fmt"
	"strconv"
	"time"
)

// Encode validates a task and returns its payload.
//
// The JSON is written by hand, because files of millions of tasks are encoded
// here. This is safe: each text is either validated to be visible ASCII or made
// by this package.
func Encode(t Task, in Intent) ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	const usual = 192 // bytes
	p := payload(append(make([]byte, 0, usual), `{"v":`+strconv.Itoa(Version)...))
	switch t := t.(type) {
	case DeviceUnbind:
		p.text("user_id", t.UserID)
		p.text("device_id", t.DeviceID)
		p.flag("listed", t.Listed)
	case LockRelease:
		p.text("user_id", t.UserID)
		p.text("lock_id", t.LockID)
		if t.Evidence.Source != "" {
			p.text("source", string(t.Evidence.Source))
			if err := p.time("expired_at", t.Evidence.ExpiredAt); err != nil {
				return nil, err
			}
		}
	case UserOffboard:
		p.text("user_id", t.UserID)
	case LockSweep:
		p.sweep(t)
	case BatchWebhook:
		p.text("batch_id", t.BatchID)
	default:
		return nil, fmt.Errorf("%w: %T", ErrUnknownKind, t)
	}
	if in.BatchRef.IsSet() {
		if err := in.BatchRef.validate(); err != nil {
			return nil, err
		}
		p.text("batch", in.BatchRef.Batch)
		p.member("index")
		p = strconv.AppendInt(p, in.BatchRef.Index, 10)
	}
	if err := p.time("enqueued_at", in.EnqueuedAt); err != nil {
		return nil, err
	}
	if err := p.time("not_after", in.NotAfter); err != nil {
		return nil, err
	}
	p.flag("no_guard", in.NoGuard)
	return append(p, '}'), nil
}

// payload is a JSON object that is being written.
type payload []byte

// member writes the name of the next member.
func (p *payload) member(name string) { *p = append(*p, `,"`+name+`":`...) }

// flag writes a member if it is true.
func (p *payload) flag(name string, is bool) {
	if is {
		p.member(name)
		*p = append(*p, "true"...)
	}
}

// text writes a member whose value is visible ASCII.
func (p *payload) text(name, s string) {
	p.member(name)
	*p = append(*p, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			*p = append(*p, '\\')
		}
		*p = append(*p, s[i])
	}
	*p = append(*p, '"')
}

// time writes a member, unless its value is zero.
func (p *payload) time(name string, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	u := t.UTC()
	if u.Year() < 0 || u.Year() > maxYear {
		return &FieldError{Field: name, Problem: fmt.Sprintf("is in the year %d; want 0 to %d", u.Year(), maxYear)}
	}
	p.member(name)
	*p = append(u.AppendFormat(append(*p, '"'), time.RFC3339Nano), '"')
	return nil
}

// sweep writes the members of a sweep that are not the default.
func (p *payload) sweep(t LockSweep) {
	if t.Source != "" {
		p.text("source", string(t.Source))
	}
	if t.Grace != 0 {
		p.text("grace", t.Grace.String())
	}
	if t.Max != 0 {
		p.member("max")
		*p = strconv.AppendInt(*p, t.Max, 10)
	}
	if t.MaxShare != 0 {
		p.member("max_share")
		*p = strconv.AppendFloat(*p, t.MaxShare, 'f', -1, 64)
	}
	p.flag("force", t.Force)
}
