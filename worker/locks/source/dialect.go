package source

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// dialect holds what differs between the databases.
type dialect struct {
	where     string // for people, for example "PostgreSQL at db:5432/backups"
	connector driver.Connector
	// redact removes the password from a text. It is a function so that fmt cannot
	// print the password.
	redact func(string) string
	// inClause returns a condition that selects these locks, with its parameters.
	// Without an index the database evaluates it in one pass over the table.
	inClause func(ids []tasks.LockID) (condition string, args []any)
	// limit makes the database end the transaction's queries after that time, which
	// is at least a millisecond.
	limit func(context.Context, *sql.Tx, time.Duration) error
	// explain interprets an error of the server. fault.cause is nil if err does not
	// come from the server.
	explain func(err error) fault

	textTypes, timeTypes []string // by their DatabaseTypeName
	localTimeType        string   // the one of timeTypes that has no zone
	castTo, fromUnix     string   // for hints
}

// fault is an error of the server.
type fault struct {
	cause       error
	hint        string
	timedOut    bool // the server ended the query because its time was over
	unreachable bool // the connection could not be made
}

const (
	hintReach  = "check that the server runs there and can be reached from here"
	hintLogin  = "check the user and the password of the DSN, and that the server lets that user in from this machine"
	hintBroke  = "the list is incomplete and is not used; the next try reads it from the start"
	hintSlow   = "check the query with EXPLAIN and give its table an index, or allow more time"
	hintSelect = "the query must be one SELECT that can stand in parentheses; it is run read-only"
	hintGrant  = "let the user of the DSN read the tables of the query (GRANT SELECT)"
	hintNames  = "check the query and the database of the DSN; run the query there by hand"
	hintByHand = "run the query there by hand"
	hintBusy   = "wait, or raise the server's limit of connections; this source takes at most 4"
)

// error returns an error that names the database and shows no password.
func (s *SQL) error(message, hint string, cause error) error {
	return &Error{message: s.dialect.redact(s.dialect.where + ": " + oneLine(message)), hint: s.dialect.redact(hint), cause: cause}
}

// fail says why a query failed. ctx is the caller's, limited is the one with our
// timeout.
//
// Only errors that hold no secret become the cause: pgx's ConnectError contains the
// whole configuration.
func (s *SQL) fail(ctx, limited context.Context, err error) error {
	f := s.dialect.explain(err)
	op, isOp := errors.AsType[*net.OpError](err)
	name, isName := errors.AsType[*net.DNSError](err)
	switch {
	case ctx.Err() != nil:
		return s.error(context.Cause(ctx).Error(), "", ctx.Err())
	case limited.Err() != nil || f.timedOut:
		return s.error("the query did not end within "+s.timeout.String(), hintSlow, context.DeadlineExceeded)
	case f.cause != nil:
		return s.error(f.cause.Error(), f.hint, f.cause)
	case isName:
		return s.error("no connection: "+name.Error(), hintReach, nil)
	case isOp && op.Op == "dial":
		return s.error("no connection: "+op.Error(), hintReach, nil)
	case f.unreachable:
		return s.error("no connection: "+err.Error(), hintReach, nil)
	case broken(err):
		return s.error("the connection broke: "+err.Error(), hintBroke, nil)
	default:
		return s.error(err.Error(), hintByHand, nil)
	}
}

// broken reports whether the connection broke.
func broken(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	return isNet || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(err.Error(), "invalid connection") // the error of go-sql-driver, wrapped or not
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// redactor returns a function that removes these secrets from a text.
func redactor(secrets ...string) func(string) string {
	var pairs []string
	for _, secret := range secrets {
		if secret != "" {
			pairs = append(pairs, secret, "***")
		}
	}
	return strings.NewReplacer(pairs...).Replace
}
