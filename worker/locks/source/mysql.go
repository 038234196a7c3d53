package source

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/kooworker/kooworker/tasks"
)

const mysqlShape = "want mysql://user:password@host:3306/database, or user:password@tcp(host:3306)/database" + encodeHint

// mysqlDialect is for MySQL and MariaDB.
func mysqlDialect(cfg *mysql.Config, secrets []string) (*dialect, error) {
	if !isUTC(cfg.Loc.String()) {
		return nil, errTimeZone("loc")
	}
	for name, value := range cfg.Params {
		if strings.EqualFold(name, "time_zone") {
			if !isUTC(strings.Trim(value, `'"`)) {
				return nil, errTimeZone(name)
			}
			delete(cfg.Params, name)
		}
	}
	if cfg.MultiStatements {
		return nil, &Error{message: "the DSN sets multiStatements", hint: "leave it out: the locks' query is one statement"}
	}
	if cfg.Params == nil {
		cfg.Params = make(map[string]string)
	}
	cfg.Params["time_zone"] = "'+00:00'" // UTC by name would need the server's zone tables
	cfg.Loc, cfg.ParseTime = time.UTC, true
	cfg.ColumnsWithAlias, cfg.InterpolateParams = false, false
	cfg.Logger = &mysql.NopLogger{} // the driver also returns the errors that it logs
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, errNotMySQL
	}
	return &dialect{
		where:         "MySQL at " + cfg.Addr + "/" + cfg.DBName,
		connector:     connector,
		redact:        redactor(append(secrets, cfg.Passwd)...),
		inClause:      inClauseMySQL,
		limit:         limitMySQL,
		explain:       explainMySQL,
		textTypes:     []string{"VARCHAR", "CHAR", "TEXT", "TINYTEXT", "MEDIUMTEXT", "LONGTEXT", "VARBINARY", "BINARY", "BLOB", "NULL"},
		timeTypes:     []string{"DATETIME", "TIMESTAMP"},
		localTimeType: "DATETIME",
		castTo:        "CHAR",
		fromUnix:      "FROM_UNIXTIME(expires_at)",
	}, nil
}

// inClauseMySQL begins with two lists, in which the server searches quickly. The
// pairs are compared only for the rows that are left: without an index the server
// would compare every row with one pair after the other. A single IN over pairs
// does not find text in UCS-2.
func inClauseMySQL(ids []tasks.LockID) (condition string, args []any) {
	users, locks, pairs := make([]any, len(ids)), make([]any, len(ids)), make([]any, 0, 2*len(ids))
	for i, id := range ids {
		users[i], locks[i] = id.UserID, id.LockID
		pairs = append(pairs, id.UserID, id.LockID)
	}
	more := len(ids) - 1
	in := " IN (?" + strings.Repeat(", ?", more) + ")"
	const pair = "locks.user_id = ? AND locks.lock_id = ?"
	return "locks.user_id" + in + " AND locks.lock_id" + in + " AND (" + pair + strings.Repeat(" OR "+pair, more) + ")",
		slices.Concat(users, locks, pairs)
}

var errNotMySQL = &Error{message: "the DSN is not one of MySQL", hint: mysqlShape}

// unknownVariable is the error of a server that does not know a setting.
const unknownVariable = 1193

// limitMySQL tries both names of the setting: MariaDB's is in seconds, MySQL's in
// milliseconds.
func limitMySQL(ctx context.Context, tx *sql.Tx, left time.Duration) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf("SET SESSION max_statement_time = %.3f", left.Seconds()))
	if my, ok := errors.AsType[*mysql.MySQLError](err); ok && my.Number == unknownVariable {
		_, err = tx.ExecContext(ctx, fmt.Sprintf("SET SESSION max_execution_time = %d", left.Milliseconds()))
	}
	return err
}

// explainMySQL knows the numbers of https://mariadb.com/kb/en/mariadb-error-codes
// and https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html.
func explainMySQL(err error) fault {
	my, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return fault{}
	}
	f := fault{cause: my, hint: hintByHand}
	switch my.Number {
	case 1969, 3024: // MariaDB's, MySQL's
		f.timedOut = true
	case 1045, 1130, 1698: // password, host, no password
		f.hint = hintLogin
	case 1044, 1142, 1143: // database, table, column
		f.hint = hintGrant
	case 1049, 1054, 1146, 1305: // no database, column, table, function
		f.hint = hintNames
	case 1064, 1792: // syntax, read-only
		f.hint = hintSelect
	case 1060: // a subquery yields two columns with the same name
		f.hint = "name the columns that are wanted instead of *"
	case 1040, 1203, 1226:
		f.hint = hintBusy
	case 1053, 1317, 1927: // going down, interrupted, killed
		f.hint = hintBroke
	}
	return f
}
