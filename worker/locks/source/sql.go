package source

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// SQL is a query of a database, see Config. It may be used by many goroutines.
//
// After a failure the next call uses a connection that works.
type SQL struct {
	dialect  *dialect
	query    string
	timeout  time.Duration
	location *time.Location // nil: UTC
	anyID    bool
	db       *sql.DB
	checked  atomic.Bool
}

// Format prints where the database is, and no credentials.
func (s *SQL) Format(state fmt.State, _ rune) { _, _ = fmt.Fprint(state, s.dialect.where) }

// Close implements List.
func (s *SQL) Close() error { return s.db.Close() }

// Kind implements List.
func (*SQL) Kind() tasks.SourceKind { return tasks.SourceSQL }

// Check connects and lets the database parse the query, without running it. The
// query must be one statement that yields the columns in types that can be read.
// Once a check has passed the next ones do nothing.
//
// Locks and Lookup call it before they run the query as it is, since the check has
// run it as a part of another query: there it can only be a single SELECT.
func (s *SQL) Check(ctx context.Context) error {
	if s.checked.Load() {
		return nil
	}
	if err := s.run(ctx, s.subquery("*", "LIMIT 0"), nil, nil); err != nil {
		return err
	}
	s.checked.Store(true)
	return nil
}

// Locks implements List. It reads rows as they are consumed, in one read-only
// transaction.
func (s *SQL) Locks(ctx context.Context) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		err := s.Check(ctx)
		if err == nil {
			err = s.run(ctx, s.query, nil, yield)
		}
		if err != nil {
			yield(tasks.Lock{}, err)
		}
	}
}

const (
	// lookupPageSize is how many locks are looked up in one query.
	lookupPageSize = 100
	// maxRowsPerLock bounds the rows that a Lookup reads.
	maxRowsPerLock = 100
)

// Lookup implements List. It asks for up to 100 locks in one query.
func (s *SQL) Lookup(ctx context.Context, ids []tasks.LockID) ([]LockState, error) {
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	states := make(lockStates, len(ids))
	for page := range slices.Chunk(ids, lookupPageSize) {
		if err := s.lookupPage(ctx, page, states); err != nil {
			return nil, err
		}
	}
	return states.of(ids), nil
}

// lookupPage adds the states of these locks. It may also add locks whose ids differ
// from theirs in case or spaces: for the database's collation they are equal.
func (s *SQL) lookupPage(ctx context.Context, ids []tasks.LockID, states lockStates) error {
	condition, args := s.dialect.inClause(ids)
	limit, rows := maxRowsPerLock*len(ids), 0
	text := s.subquery(userColumn+", "+lockColumn+", "+expiryColumn, "WHERE "+condition+" LIMIT "+strconv.Itoa(limit+1))
	err := s.run(ctx, text, args, func(l tasks.Lock, err error) bool {
		rows++
		states.add(l, asRowError(err))
		return true
	})
	if err != nil {
		return err
	}
	if rows > limit {
		return s.error(fmt.Sprintf("the query yields more than %d rows for %d locks, of which the first is %s of user %s", limit, len(ids), ids[0].LockID, ids[0].UserID),
			"let it yield one row for a lock, with the latest expires_at", nil)
	}
	return nil
}

// subquery selects a part of what the query yields. The line breaks end a comment
// at the end of the query.
func (s *SQL) subquery(columns, rest string) string {
	return "SELECT " + columns + " FROM (\n" + s.query + "\n) AS locks " + rest
}

// run passes the rows of one query to each: a lock, or a *RowError. It returns nil
// if each stops it.
func (s *SQL) run(ctx context.Context, text string, args []any, each func(tasks.Lock, error) (more bool)) error {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	tx, err := s.begin(limited)
	if err != nil {
		return s.fail(ctx, limited, err)
	}
	defer func() { _ = tx.Rollback() }() // there is nothing to commit
	rows, err := tx.QueryContext(limited, text, args...)
	if err != nil {
		return s.fail(ctx, limited, err)
	}
	defer func() { _ = rows.Close() }()
	types, err := rows.ColumnTypes()
	if err != nil {
		return s.fail(ctx, limited, err)
	}
	c, err := s.columns(types)
	if err != nil {
		return err
	}
	for n := 1; rows.Next(); n++ {
		if err := rows.Scan(c.targets...); err != nil {
			return s.fail(ctx, limited, err)
		}
		if !each(c.lock(n)) {
			cancel() // otherwise Close would read the remaining rows
			return nil
		}
	}
	// rows.Err should report the end of the context as well. It is asked again: a
	// list that is cut short must end with an error.
	if err := cmp.Or(rows.Err(), limited.Err()); err != nil {
		return s.fail(ctx, limited, err)
	}
	return nil
}

// begin starts a transaction that cannot write. The database itself ends the
// queries of the transaction at the deadline of ctx.
func (s *SQL) begin(ctx context.Context) (*sql.Tx, error) {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	left := max(time.Until(deadline), time.Millisecond) // 0 would mean no limit
	if err := s.dialect.limit(ctx, tx, left); err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}
