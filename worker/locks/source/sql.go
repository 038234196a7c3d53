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
// What fails leaves nothing behind: the next call takes a connection that works.
type SQL struct {
	dialect  *dialect
	query    string
	timeout  time.Duration
	location *time.Location // nil: UTC
	db       *sql.DB
	checked  atomic.Bool
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

// Kind implements Source.
func (*SQL) Kind() tasks.Source { return tasks.SourceSQL }

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
func (s *SQL) Locks(ctx context.Context) iter.Seq2[tasks.Lock, error] {
	return func(yield func(tasks.Lock, error) bool) {
		err := s.checkOnce(ctx)
		if err == nil {
			err = s.run(ctx, s.query, nil, func(l tasks.Lock, row *RowError) bool {
				if row != nil {
					return yield(tasks.Lock{}, row)
				}
				return yield(l, nil)
			})
		}
		if err != nil {
			yield(tasks.Lock{}, err)
		}
	}
}

const (
	lookAtOnce = 100 // locks in one query
	// maxSame bounds the rows that a Look reads, for each lock.
	maxSame = 100
)

// Lookup implements Source. It asks for up to 100 locks in one query.
func (s *SQL) Lookup(ctx context.Context, names []tasks.LockID) ([]LockState, error) {
	if err := s.checkOnce(ctx); err != nil {
		return nil, err
	}
	sights := make([]LockState, 0, len(names))
	for page := range slices.Chunk(names, lookAtOnce) {
		of, err := s.look(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, name := range page {
			sights = append(sights, of[name])
		}
	}
	return sights, nil
}

func (s *SQL) look(ctx context.Context, names []tasks.LockID) (map[tasks.LockID]LockState, error) {
	of := make(map[tasks.LockID]LockState, len(names))
	for _, name := range names {
		of[name] = LockState{}
	}
	among, args := s.dialect.among(names)
	columns := userColumn + ", " + lockColumn + ", " + expiryColumn
	most, rows := maxSame*len(names), 0
	text := s.wrapped(columns, "WHERE "+among+" LIMIT "+strconv.Itoa(most+1))
	err := s.run(ctx, text, args, func(l tasks.Lock, row *RowError) bool {
		rows++
		name := tasks.LockID{UserID: l.UserID, LockID: l.LockID}
		if row != nil {
			name = tasks.LockID{UserID: row.UserID, LockID: row.LockID}
		}
		// To a database, ids may be equal that differ in case or spaces.
		if sight, asked := of[name]; asked {
			sight.add(l.ExpiresAt, row)
			of[name] = sight
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if rows > most {
		return nil, s.error(fmt.Sprintf("the query yields more than %d rows for %d locks, of which the first is %s of user %s", most, len(names), names[0].LockID, names[0].UserID),
			"let it yield one row for a lock, with the latest expires_at", nil)
	}
	return of, nil
}

// wrapped asks for a part of what the query yields. The line breaks are for a
// query that ends with a comment.
func (s *SQL) wrapped(columns, rest string) string {
	return "SELECT " + columns + " FROM (\n" + s.query + "\n) AS locks " + rest
}

// run reads the rows of one query. It returns nil when each had enough.
func (s *SQL) run(ctx context.Context, text string, args []any, each func(tasks.Lock, *RowError) (more bool)) error {
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
