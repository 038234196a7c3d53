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
	// error ends the call: ErrNoCredential with tasks.Forbidden, any other error
	// with tasks.Unauthorized.
	Authorize(ctx context.Context, req *http.Request, userID string) error
	// Renew is called when the user's credential was refused. It drops what is
	// cached for the user, so that the next Authorize gets a fresh credential.
	Renew(userID string)
	// Redact replaces in a text every secret that the authorizer keeps from call
	// to call. The client itself replaces what was sent with a request.
	Redact(text string) string
}

// ErrNoCredential says that the source of credentials works but has none for this
// user. It concerns one task; any other failure of a source concerns them all.
var ErrNoCredential = errors.New("there is no credential for this user")

// credentialReason returns the reason of a failed Authorize.
func credentialReason(err error) tasks.Reason {
	if errors.Is(err, ErrNoCredential) {
		return tasks.Forbidden
	}
	return tasks.Unauthorized
}

// closeIdle closes the idle connections of a value that has some.
func closeIdle(v any) {
	if c, ok := v.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
