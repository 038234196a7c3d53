package koodrive

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/kooworker/kooworker/internal/httpx"
)

// DefaultTokenFormat is the form in which the vendor's guide shows a token.
// Other pages of the same vendor show "Bearer {token}", "AT {token}" and the
// bare "{token}".
const DefaultTokenFormat = "Bearer+{token}" //nolint:gosec // a form, not a token

const tokenMark = "{token}"

// TokenSource knows the users' tokens. It is safe for concurrent use.
type TokenSource interface {
	// Token returns a token with which to act for the user. The error is
	// ErrNoCredential if there is none for this user. It never holds a secret.
	Token(ctx context.Context, userID string) (string, error)
	// Forget drops what is cached for the user.
	Forget(userID string)
	// Redact replaces in a text the secrets that the source keeps for all users.
	Redact(text string) string
}

// TokenAuthorizer sends a token with every call.
type TokenAuthorizer struct {
	hiddenFromFmt
	before, after string // what surrounds the token
	source        TokenSource
}

var (
	_ Authorizer          = (*TokenAuthorizer)(nil)
	_ credentialExtractor = (*TokenAuthorizer)(nil)
)

// NewTokenAuthorizer returns an authorizer that sets Authorization to the format,
// such as DefaultTokenFormat, with the source's token in place of {token}. An
// empty format means DefaultTokenFormat.
func NewTokenAuthorizer(format string, source TokenSource) (*TokenAuthorizer, error) {
	if source == nil {
		return nil, errors.New("token authorizer: no token source; want StaticToken, TokenFile or TokenBroker")
	}
	if format == "" {
		format = DefaultTokenFormat
	}
	// The format itself is not shown: people paste their token into it.
	if strings.Count(format, tokenMark) != 1 {
		return nil, fmt.Errorf("token format: want %s exactly once, such as %s", tokenMark, DefaultTokenFormat)
	}
	if !httpx.PrintableASCII(format) || strings.TrimSpace(format) != format {
		return nil, fmt.Errorf("token format: want printable ASCII without surrounding spaces, such as %s", DefaultTokenFormat)
	}
	before, after, _ := strings.Cut(format, tokenMark)
	return &TokenAuthorizer{before: before, after: after, source: source}, nil
}

// Authorize implements Authorizer.
func (a *TokenAuthorizer) Authorize(ctx context.Context, req *http.Request, userID string) error {
	token, err := a.source.Token(ctx, userID)
	if err != nil {
		return err
	}
	if err := checkSecret(token); err != nil {
		return fmt.Errorf("the token %w", err)
	}
	req.Header.Set("Authorization", a.before+token+a.after)
	return nil
}

// Renew implements Authorizer.
func (a *TokenAuthorizer) Renew(userID string) { a.source.Forget(userID) }

// Redact implements Authorizer.
func (a *TokenAuthorizer) Redact(text string) string { return a.source.Redact(text) }

// CloseIdleConnections closes the idle connections of the token source, if it has
// any.
func (a *TokenAuthorizer) CloseIdleConnections() { closeIdle(a.source) }

func (a *TokenAuthorizer) credentialIn(authorization string) string {
	return strings.TrimSuffix(strings.TrimPrefix(authorization, a.before), a.after)
}

// StaticToken is a source with one token for all users, which never changes.
func StaticToken(token string) (TokenSource, error) {
	if err := checkSecretOnly(token); err != nil {
		return nil, fmt.Errorf("the token %w", err)
	}
	return sharedToken{httpx.NewSecret(token)}, nil
}

// TokenFile is a source with one token for all users, which is in a file. The file
// is read again when it changes, and after every refusal. White space around the
// token does not matter.
func TokenFile(path string) (TokenSource, error) {
	file, err := openSecretFile("the token file", path)
	if err != nil {
		return nil, err
	}
	return sharedToken{file}, nil
}

// sharedToken is a source that gives every user the same secret.
type sharedToken struct{ SecretSource }

func (t sharedToken) Token(context.Context, string) (string, error) { return t.Secret() }
func (t sharedToken) Forget(string)                                 { t.SecretSource.Forget() }
