package source

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	defaultTimeout = 2 * time.Minute
	// maxConns is small: the database is somebody else's. One reads the list,
	// and the others are for the Looks of releases that run side by side.
	maxConns = 4
	// idleTime is how long an unused connection is kept. Sweeps are far apart,
	// the Looks of one are not.
	idleTime = 30 * time.Second
)

// Config says which database knows the locks, and how to ask it.
type Config struct {
	// DSN is where the database is, and as whom to read it. Required. One of
	//
	//	postgres://user:password@host:5432/database?sslmode=verify-full
	//	host=… port=… user=… password=… dbname=…
	//	mysql://user:password@host:3306/database?tls=true
	//	user:password@tcp(host:3306)/database?tls=true
	//
	// In URLs, what is not a letter, a digit or one of -._~ in the user or
	// password is percent-encoded. Several hosts need the second form (host=a,b).
	// For PostgreSQL the environment (PGPASSWORD, PGPASSFILE, …) fills in what is
	// missing. MySQL is MariaDB as well.
	//
	// It should be the primary: a replica that lags behind does not know yet that
	// a lock was renewed.
	//
	// What would make times mean something else is refused: a loc or time_zone
	// that is not UTC. So is multiStatements.
	DSN string `json:"-"`
	// Query is one SELECT that yields all locks, with or without those that have
	// not expired: the columns user_id and lock_id, of a type of text, and
	// expires_at, a time or RFC 3339 text. Their order is free, and other columns
	// are passed over. A semicolon at its end is taken off. Required.
	//
	// It is run as it is for the list, and as a subquery to look at one lock: the
	// faster it is with a condition on user_id and lock_id, the faster are
	// releases. A lock that it does not yield is gone, so it should have no
	// LIMIT. For example
	//
	//	SELECT user_id, id::text AS lock_id, renewed_at + interval '10 min' AS expires_at FROM locks
	Query string
	// Timeout is for one query, from the connection to the last row, and with it
	// for what the consumer does with the rows. The database is told as well, so
	// that it does not go on alone. A context's earlier deadline counts. Default
	// 2 minutes.
	Timeout time.Duration
	// Location is the zone of an expires_at whose type has none: a timestamp of
	// PostgreSQL, a DATETIME of MySQL. Default UTC. A time that the clocks show
	// twice, or leave out, is the later one that it can be.
	//
	// The session stays in UTC, and what a query computes without a zone is in UTC:
	// MySQL's NOW(), and a TIMESTAMP + INTERVAL or TIMESTAMPADD, are a DATETIME, and
	// PostgreSQL's LOCALTIMESTAMP is a timestamp. With a Location these would be
	// misread: write DATE_FORMAT(…, '%Y-%m-%dT%H:%i:%sZ') in MySQL, which is text,
	// and now() in PostgreSQL.
	Location *time.Location
}

// Format prints the configuration without the DSN.
func (c Config) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "{Query:%q Timeout:%s Location:%s}", c.Query, c.Timeout, c.Location)
}

// New returns a source that connects when it is first used, and checks the query
// then. It is for what must start while the database is down; see [Open].
func New(cfg Config) (*SQL, error) {
	// The semicolon is the end of a statement wherever it stands last: a string
	// ends with its quote.
	query := strings.TrimRight(cfg.Query, "; \t\r\n")
	switch {
	case cfg.DSN == "":
		return nil, errors.New("the locks' database has no DSN; want postgres://… or mysql://…")
	case query == "":
		return nil, errors.New("the locks' query is empty; want a SELECT that yields " + joinNames(columnNames[:]))
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("the timeout of the locks' query is %s; want more than 0, or 0 for %s", cfg.Timeout, defaultTimeout)
	}
	d, err := parseDSN(cfg.DSN)
	if err != nil {
		return nil, err
	}
	s := &SQL{dialect: d, query: query, timeout: cmp.Or(cfg.Timeout, defaultTimeout), location: cfg.Location, db: sql.OpenDB(d.connector)}
	s.db.SetMaxOpenConns(maxConns)
	s.db.SetMaxIdleConns(maxConns)
	s.db.SetConnMaxIdleTime(idleTime)
	return s, nil
}

// Open returns a source that was checked: the database answers, and the query is
// one statement that yields the columns, in types that can be read.
func Open(ctx context.Context, dsn, query string) (*SQL, error) {
	s, err := New(Config{DSN: dsn, Query: query})
	if err != nil {
		return nil, err
	}
	if err := s.Check(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}
