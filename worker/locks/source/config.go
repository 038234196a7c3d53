package source

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	defaultTimeout = 2 * time.Minute
	// maxConns is small because the database belongs to somebody else. One
	// connection reads the list, the others serve the Lookups of releases that run
	// at the same time.
	maxConns = 4
	// idleTime is how long an unused connection is kept: through the Lookups of one
	// sweep, but not until the next sweep.
	idleTime = 30 * time.Second
)

// Config says which database lists the locks, and how to query it.
type Config struct {
	// DSN is the address of the database, and the user that reads it. Required. One
	// of
	//
	//	postgres://user:password@host:5432/database?sslmode=verify-full
	//	host=… port=… user=… password=… dbname=…
	//	mysql://user:password@host:3306/database?tls=true
	//	user:password@tcp(host:3306)/database?tls=true
	//
	// In a URL, every character of the user and the password that is not a letter, a
	// digit or one of -._~ is percent-encoded. Several hosts need the second form
	// (host=a,b). For PostgreSQL the environment (PGPASSWORD, PGPASSFILE, …) fills in
	// what is missing. The MySQL forms are for MariaDB as well.
	//
	// It should be the primary: a replica that lags behind does not know yet that
	// a lock was renewed.
	//
	// A loc or time_zone that is not UTC is refused, since it would change what
	// times mean. So is multiStatements.
	DSN string `json:"-"`
	// Query is one SELECT that yields all locks; those that have not expired may be
	// left out. Its columns are user_id and lock_id, of a text type, and expires_at, a
	// time or RFC 3339 text. They may have any order, and other columns are ignored.
	// A semicolon at the end is removed. Required.
	//
	// The query is run as it is for the list, and as a subquery to look up locks: the
	// faster it is with a condition on user_id and lock_id, the faster are releases.
	// A lock that it does not yield is gone, so it should have no LIMIT. For example
	//
	//	SELECT user_id, id::text AS lock_id, renewed_at + interval '10 min' AS expires_at FROM locks
	Query string
	// Timeout limits one query, from the connection to the last row. That includes
	// what the consumer does with the rows. The database gets the limit too, so that
	// it does not go on alone. An earlier deadline of a context counts instead.
	// Default 2 minutes.
	Timeout time.Duration
	// Location is the zone of an expires_at whose type has none: a timestamp of
	// PostgreSQL, a DATETIME of MySQL. Default UTC. A local time that exists twice,
	// or not at all, is read as the later one of its two meanings.
	//
	// The session stays in UTC, so a type without a zone is in UTC if the query
	// computes it: MySQL's NOW(), and a TIMESTAMP + INTERVAL or TIMESTAMPADD, are a
	// DATETIME, and PostgreSQL's LOCALTIMESTAMP is a timestamp. With a Location these
	// would be misread: write DATE_FORMAT(…, '%Y-%m-%dT%H:%i:%sZ') in MySQL, which is
	// text, and now() in PostgreSQL.
	Location *time.Location
	// AllowAnyID accepts ids that tasks.CheckPlausible refuses. Without it, such a row is
	// a *RowError, and its lock stays: the release of a lock that KooDrive does not know
	// would count as done.
	AllowAnyID bool
}

// Format prints the configuration without the DSN.
func (c Config) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "{Query:%q Timeout:%s Location:%s}", c.Query, c.Timeout, c.Location)
}

// New returns a source that connects, and checks the query, when it is first used:
// a worker must start while the database is down. See [SQL.Check].
func New(cfg Config) (*SQL, error) {
	// A semicolon at the end always ends the statement: a string would end with its
	// quote.
	query := strings.TrimRight(cfg.Query, "; \t\r\n")
	switch {
	case cfg.DSN == "":
		return nil, errors.New("the locks' database has no DSN; want postgres://… or mysql://…")
	case query == "":
		return nil, errors.New("the locks' query is empty; want a SELECT that yields " + allColumns)
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("the timeout of the locks' query is %s; want more than 0, or 0 for %s", cfg.Timeout, defaultTimeout)
	}
	d, err := parseDSN(cfg.DSN)
	if err != nil {
		return nil, err
	}
	s := &SQL{dialect: d, query: query, timeout: cmp.Or(cfg.Timeout, defaultTimeout), location: cfg.Location, anyID: cfg.AllowAnyID, db: sql.OpenDB(d.connector)}
	s.db.SetMaxOpenConns(maxConns)
	s.db.SetMaxIdleConns(maxConns)
	s.db.SetConnMaxIdleTime(idleTime)
	return s, nil
}
