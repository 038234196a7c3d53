package source

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/kooworker/kooworker/tasks"
)

const postgresShape = "want postgres://user:password@host:5432/database?sslmode=verify-full, or host=… user=… password=… dbname=…" + encodeHint

func postgres(dsn string, secrets []string) (*dialect, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, &Error{message: "the DSN is not one of PostgreSQL", hint: postgresShape + "; certificates that it names have to be there"}
	}
	for name, value := range cfg.RuntimeParams {
		if strings.EqualFold(name, "timezone") {
			if !isUTC(value) {
				return nil, errTimeZone(name)
			}
			delete(cfg.RuntimeParams, name)
		}
	}
	cfg.RuntimeParams["timezone"] = "UTC"
	cfg.RuntimeParams["application_name"] = cmp.Or(cfg.RuntimeParams["application_name"], "kooworker")
	// Without prepared statements a connection pooler in between may use another
	// server connection after every transaction. DescribeExec asks for the types
	// first and then gets binary values, which the server's DateStyle does not change.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	cfg.StatementCacheCapacity, cfg.DescriptionCacheCapacity = 0, 0
	return &dialect{
		where: "PostgreSQL at " + net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))) + "/" + cfg.Database,
		// The ping finds a connection that died while it was idle, before a query
		// uses it.
		connector: stdlib.GetConnector(*cfg, stdlib.OptionShouldPing(
			func(context.Context, stdlib.ShouldPingParams) bool { return true })),
		redact:        redactor(append(secrets, cfg.Password)...),
		inClause:      inClausePostgres,
		limit:         limitPostgres,
		explain:       explainPostgres,
		textTypes:     []string{"TEXT", "VARCHAR", "BPCHAR", "NAME", "UUID"},
		timeTypes:     []string{"TIMESTAMPTZ", "TIMESTAMP"},
		localTimeType: "TIMESTAMP",
		castTo:        "text",
		fromUnix:      "to_timestamp(expires_at)",
	}, nil
}

// inClausePostgres begins with two conditions that an index, a hash and a query
// with GROUP BY can use. The third one selects the right pairs.
func inClausePostgres(ids []tasks.LockID) (condition string, args []any) {
	users, locks := make([]string, len(ids)), make([]string, len(ids))
	for i, id := range ids {
		users[i], locks[i] = id.UserID, id.LockID
	}
	const user, lock = "CAST(locks.user_id AS text)", "CAST(locks.lock_id AS text)"
	return user + " = ANY($1::text[]) AND " + lock + " = ANY($2::text[]) AND (" + user + ", " + lock + ") IN (SELECT * FROM unnest($1::text[], $2::text[]))",
		[]any{users, locks}
}

func limitPostgres(ctx context.Context, tx *sql.Tx, left time.Duration) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", left.Milliseconds()))
	return err
}

// explainPostgres knows the codes of
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func explainPostgres(err error) fault {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		_, connecting := errors.AsType[*pgconn.ConnectError](err)
		return fault{unreachable: connecting}
	}
	f := fault{cause: pg, hint: hintByHand}
	switch pg.Code {
	case "57014": // query_canceled
		f.timedOut = strings.Contains(pg.Message, "timeout")
		f.hint = hintBroke
	case "28P01", "28000":
		f.hint = hintLogin
	case "3D000", "42P01", "42703", "42704", "42883", "42804": // no database, table, column, type, function; types that do not match
		f.hint = hintNames
	case "42601", "25006", "0A000", "08P01", "42P02": // syntax, read-only, WITH … DELETE inside, $1
		f.hint = hintSelect
	case "42501":
		f.hint = hintGrant
	case "53300":
		f.hint = hintBusy
	case "57P01", "57P02", "57P03", "57P05": // going down, crashed, coming up
		f.hint = hintBroke
	}
	return f
}
