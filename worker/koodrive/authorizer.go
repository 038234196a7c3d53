package koodrive

import (
	"context"
	"errors"
	"net/http"

	"github.com/kooworker/kooworker/tasks"
)

// Authorizer gives requests their credential. It is safe for concurrent use.
type Authorizer interface {
	// Authorize sets Authorization. X-User-Id and X-Date are already set. An
	// error ends the call: one that is ErrNoCredential as tasks.Forbidden, any
	// other as tasks.Unauthorized.
	Authorize(ctx context.Context, req *http.Request, userID string) error
	// Renew is called when the user's credential was refused: what is cached
	// for the user is dropped, so that the next Authorize gets a fresh one.
	Renew(userID string)
	// Redact replaces every secret in a text that the authorizer keeps from
	// call to call. What it has put on a request the client replaces itself.
	Redact(text string) string
}

// ErrNoCredential says that the source of credentials is well but has none for
// this user. It is about one task; every other failure of a source hits them
// all.
var ErrNoCredential = errors.New("there is no credential for this user")

// credentialReason is the reason of a failed Authorize.
func credentialReason(err error) tasks.Reason {
	if errors.Is(err, ErrNoCredential) {
		return tasks.Forbidden
	}
	return tasks.Unauthorized
}

// closeIdle closes the idle connections of whatever has some.
func closeIdle(v any) {
	if c, ok := v.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
