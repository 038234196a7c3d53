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

// dialect is what differs between the databases.
type dialect struct {
	where     string // for people, for example "PostgreSQL at db:5432/backups"
	connector driver.Connector
	// hide takes the password out of a text. It is a function so that fmt cannot
	// walk to the password.
	hide func(string) string
	// among is the condition for any of these locks, with its parameters. It costs
	// one pass where there is no index.
	among func(names []tasks.LockID) (condition string, args []any)
	// limit lets the database end the transaction's queries after that time.
	limit func(context.Context, *sql.Tx, time.Duration) error
	// explain tells of an error of the server what it means; fault.cause is nil
	// if it is none.
	explain func(err error) fault

	textTypes, timeTypes []string // as DatabaseTypeName has them
	zoneless             string   // the one of timeTypes that has no zone
	castTo, fromUnix     string   // for hints
}

// fault is an error of the server.
type fault struct {
	cause   error
	hint    string
	tooLong bool // the server ended the query in time
	away    bool // there was no connection to begin with
}

const (
	hintReach  = "look whether the server runs there, and can be reached from here"
	hintLogin  = "look at the user and the password of the DSN, and whether the server lets that user in from this machine"
	hintBroke  = "the list is incomplete and nothing may be concluded from it; the next try reads it from the start"
	hintSlow   = "look at the query with EXPLAIN and give its table an index, or allow more time"
	hintSelect = "the query has to be one SELECT that can stand in parentheses; it is run read-only"
	hintGrant  = "let the user of the DSN read what the query names (GRANT SELECT)"
	hintNames  = "look at the query and at the database of the DSN; run the query there by hand"
	hintByHand = "run the query there by hand"
	hintBusy   = "wait, or raise the server's limit of connections; this source takes at most 4"
)

// error tells of the database what people should see of it.
func (s *SQL) error(message, hint string, cause error) error {
	return &Error{message: s.dialect.hide(s.dialect.where + ": " + oneLine(message)), hint: s.dialect.hide(hint), cause: cause}
}

// fail tells what became of a query. ctx is the caller's, limited the one that
// has our timeout.
//
// Of the errors below only those are passed on that hold nothing secret: pgx's
// ConnectError has the whole configuration in it.
func (s *SQL) fail(ctx, limited context.Context, err error) error {
	f := s.dialect.explain(err)
	op, isOp := errors.AsType[*net.OpError](err)
	name, isName := errors.AsType[*net.DNSError](err)
	switch {
	case ctx.Err() != nil:
		return s.error(context.Cause(ctx).Error(), "", ctx.Err())
	case limited.Err() != nil || f.tooLong:
		return s.error("the query did not end within "+s.timeout.String(), hintSlow, context.DeadlineExceeded)
	case f.cause != nil:
		return s.error(f.cause.Error(), f.hint, f.cause)
	case isName:
		return s.error("no connection: "+name.Error(), hintReach, nil)
	case isOp && op.Op == "dial":
		return s.error("no connection: "+op.Error(), hintReach, nil)
	case f.away:
		return s.error("no connection: "+err.Error(), hintReach, nil)
	case broken(err):
		return s.error("the connection broke: "+err.Error(), hintBroke, nil)
	default:
		return s.error(err.Error(), hintByHand, nil)
	}
}

// broken reports whether the other side went away.
func broken(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	return isNet || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(err.Error(), "invalid connection") // go-sql-driver's, wrapped or not
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// hider returns a function that takes these secrets out of a text.
func hider(secrets ...string) func(string) string {
	var pairs []string
	for _, secret := range secrets {
		if secret != "" {
			pairs = append(pairs, secret, "***")
		}
	}
	return strings.NewReplacer(pairs...).Replace
}
