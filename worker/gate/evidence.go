package gate

import (
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// The number of failures since the last success that are an outage.
const (
	// manyUsers is the number of distinct users whose calls failed. It is larger
	// than what bad luck brings together while other users' calls succeed.
	manyUsers = 50
	// severalUsers is the number of distinct users whose calls failed in a row before
	// a success.
	severalUsers = 10
	// someTasks is the number of distinct tasks that failed, if the check failed as
	// well, or if no server received their calls.
	someTasks = 3
)

const (
	// maxUsers bounds the users of a row, and maxTargets the targets of each.
	maxUsers   = 2 * manyUsers
	maxTargets = 2 * someTasks
)

// row is the failures of one kind of call and one class.
type row struct {
	users map[string]*failures
	// succeededAt is the end of the latest call that proved the opposite, and
	// provenFrom the latest begin of such a call. A call that began before a failure
	// says nothing about the time after it.
	succeededAt, provenFrom time.Time
}

// failures are those of one user.
type failures struct {
	first, last time.Time // since the latest proof
	targets     map[string]struct{}
}

// add counts a failure. It reports whether it is the user's first since the last
// success.
func (r *row) add(user, target string, at time.Time) (isFirst bool) {
	f := r.users[user]
	switch {
	case f != nil:
	case len(r.users) >= maxUsers:
		return false
	default:
		f = &failures{first: at}
		r.users[user] = f
	}
	if isFirst = !f.last.After(r.succeededAt); isFirst {
		f.targets = make(map[string]struct{})
	}
	if len(f.targets) < maxTargets {
		f.targets[target] = struct{}{}
	}
	if at.After(f.last) {
		f.last = at
	}
	return isFirst
}

// prove counts a call that proves the opposite. It returns the users whose calls
// failed before that call began: while they failed, KooDrive worked.
func (r *row) prove(began, ended time.Time) (atFault []string) {
	if ended.After(r.succeededAt) {
		r.succeededAt = ended
	}
	if began.After(r.provenFrom) {
		r.provenFrom = began
	}
	for user, f := range r.users {
		if !f.first.Before(began) {
			continue
		}
		atFault = append(atFault, user)
		if f.first = f.last; f.last.Before(began) {
			delete(r.users, user)
		}
	}
	return atFault
}

// count returns how many distinct users and tasks have failed since the last
// success, without those users.
func (r *row) count(without func(user string) bool) (users, targets int) {
	for user, f := range r.users {
		if f.last.After(r.succeededAt) && !without(user) {
			users++
			targets += len(f.targets)
		}
	}
	return users, targets
}

// lastFailure returns when a call of the user failed last, zero if none did.
func (r *row) lastFailure(user string) time.Time {
	if f := r.users[user]; f != nil {
		return f.last
	}
	return time.Time{}
}

// News is what one worker tells the others, or learns from them.
type News struct {
	Failures  []Failure
	Successes []Success
}

// Failure says that a call failed.
type Failure struct {
	Kind  Kind
	Class tasks.Reason
	User  string
	At    time.Time
}

// Success says that a call shows that KooDrive works.
type Success struct {
	Kind   Kind
	Reason tasks.Reason // a success, or KooDrive's refusal of a task
	User   string
	Began  time.Time
	Ended  time.Time
}
