package gate

import (
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// userKind is a user, and a kind of calls.
type userKind struct {
	user string
	kind Kind
}

// refusedUser is a user whose latest calls of a kind were all refused with a 429.
type refusedUser struct {
	refused int       // calls
	passed  uint64    // by the others, up to the first of these
	until   time.Time // the user's tasks wait until then
}

// refusedUsers finds the users who are refused at any rate. The gate's lock guards it.
type refusedUsers struct {
	users  *simplelru.LRU[userKind, *refusedUser]
	passed uint64 // calls of any user
}

const (
	// maxRefusedUsers bounds how many users are remembered.
	maxRefusedUsers = 10_000
	// othersPass is how many calls of others must pass, while a user's are refused, so
	// that the refusals are this user's own.
	othersPass = 10
	// longestHold bounds how long a user's tasks wait, if KooDrive named no time.
	longestHold = 30 * time.Second
)

func newRefusedUsers() *refusedUsers {
	users, _ := simplelru.NewLRU[userKind, *refusedUser](maxRefusedUsers, nil) // the size is valid
	return &refusedUsers{users: users}
}

// pass notes that a call passed.
func (r *refusedUsers) pass(call Call) {
	r.passed++
	if r.users.Len() > 0 {
		r.users.Remove(userKind{call.User, call.Kind})
	}
}

// refuse notes that a call was refused. It reports whether that is about its user, who
// is refused at any rate.
func (r *refusedUsers) refuse(now time.Time, call Call, wait time.Duration) (isUsers bool) {
	key := userKind{call.User, call.Kind}
	u, ok := r.users.Get(key)
	if !ok {
		u = &refusedUser{passed: r.passed}
		r.users.Add(key, u)
	}
	u.refused++
	if u.refused < 2 || r.passed-u.passed < othersPass {
		return false
	}
	if wait == 0 {
		wait = min(time.Second<<min(u.refused, 10), longestHold)
	}
	u.until = now.Add(wait)
	return true
}

// held returns until when the calls of a user wait, and whether they do. When the
// time is over, one call is let through.
func (r *refusedUsers) held(now time.Time, call Call) (until time.Time, held bool) {
	if r.users.Len() == 0 {
		return time.Time{}, false
	}
	u, ok := r.users.Peek(userKind{call.User, call.Kind})
	if !ok || u.until.IsZero() {
		return time.Time{}, false
	}
	if now.Before(u.until) {
		return u.until, true
	}
	const probe = 2 * time.Second // for its answer
	u.until = now.Add(probe)
	return time.Time{}, false
}
