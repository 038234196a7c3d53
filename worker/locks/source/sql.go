package source

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"iter"
	"strconv"
	"sync/atomic"
	"time"
)

// SQL is a query of a database, see Config. It may be used by many goroutines.
//
// What fails leaves nothing behind: the next call takes a connection that works.
type SQL struct {
	dialect *dialect
	query   string
	timeout time.Duration
	db      *sql.DB
	checked atomic.Bool
}

// Format prints where the database is, and nothing of how to get in.
func (s *SQL) Format(state fmt.State, _ rune) { _, _ = fmt.Fprint(state, s.dialect.where) }

// Close implements Source.
func (s *SQL) Close() error {
	if err := s.db.Close(); err != nil {
		return s.fail(context.Background(), context.Background(), err)
	}
	return nil
}

// Check connects and lets the database read the query, without running it.
func (s *SQL) Check(ctx context.Context) error {
	if err := s.run(ctx, s.wrapped("*", "LIMIT 0"), nil, nil); err != nil {
		return err
	}
	s.checked.Store(true)
	return nil
}

// checkOnce sees to it that only such a query is run that can be a part of
// another: a SELECT, and only one.
func (s *SQL) checkOnce(ctx context.Context) error {
	if s.checked.Load() {
		return nil
	}
	return s.Check(ctx)
}

// Locks implements Source. Rows are read as they are consumed, in one read-only
// transaction.
func (s *SQL) Locks(ctx context.Context) iter.Seq2[Lock, error] {
	return func(yield func(Lock, error) bool) {
		err := s.checkOnce(ctx)
		if err == nil {
			err = s.run(ctx, s.query, nil, func(l Lock, row *RowError) bool {
				if row != nil {
					return yield(Lock{}, row)
				}
				return yield(l, nil)
			})
		}
		if err != nil {
			yield(Lock{}, err)
		}
	}
}

// maxSame bounds the rows that one Look reads.
const maxSame = 100

// Look implements Source.
func (s *SQL) Look(ctx context.Context, userID, lockID string) (newest Lock, found bool, err error) {
	if err := s.checkOnce(ctx); err != nil {
		return Lock{}, false, err
	}
	var (
		bad  *RowError
		rows int
	)
	columns := userColumn + ", " + lockColumn + ", " + expiryColumn
	text := s.wrapped(columns, "WHERE "+s.dialect.sameLock+" LIMIT "+strconv.Itoa(maxSame+1))
	err = s.run(ctx, text, []any{userID, lockID}, func(l Lock, row *RowError) bool {
		rows++
		switch {
		// To a database, ids may be equal that differ in case or spaces.
		case row != nil && row.UserID == userID && row.LockID == lockID:
			bad = row
		case row == nil && l.UserID == userID && l.LockID == lockID:
			if !found || newest.ExpiresAt.Before(l.ExpiresAt) {
				newest, found = l, true
			}
		}
		return true
	})
	switch {
	case err != nil:
		return Lock{}, false, err
	case bad != nil:
		return Lock{}, false, bad
	case rows > maxSame:
		return Lock{}, false, s.error(fmt.Sprintf("the query yields more than %d rows for lock %s of user %s", maxSame, lockID, userID),
			"let it yield one row for a lock, with the latest expires_at", nil)
	}
	return newest, found, nil
}

// wrapped asks for a part of what the query yields. The line breaks are for a
// query that ends with a comment.
func (s *SQL) wrapped(columns, rest string) string {
	return "SELECT " + columns + " FROM (\n" + s.query + "\n) AS locks " + rest
}

// run reads the rows of one query. It returns nil when each had enough.
func (s *SQL) run(ctx context.Context, text string, args []any, each func(Lock, *RowError) (more bool)) error {
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
			cancel() // otherwise Close would read the rows that are left
			return nil
		}
	}
	// The second is what the first should say as well. A list must not be cut
	// short without a word.
	if err := cmp.Or(rows.Err(), limited.Err()); err != nil {
		return s.fail(ctx, limited, err)
	}
	return nil
}

// begin starts a transaction that cannot write, and whose queries the database
// itself ends when their time is over.
func (s *SQL) begin(ctx context.Context) (*sql.Tx, error) {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	left := s.timeout
	if deadline, ok := ctx.Deadline(); ok {
		left = max(time.Until(deadline), time.Millisecond) // 0 would be no limit
	}
	if err := s.dialect.limit(ctx, tx, left); err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}
