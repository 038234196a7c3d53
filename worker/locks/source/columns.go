package source

import (
	"cmp"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// columnNames are the columns that a query must yield.
var columnNames = [...]string{userColumn, lockColumn, expiryColumn}

// columns scans rows.
type columns struct {
	targets []any                 // for Scan
	values  [len(columnNames)]any // of the row that was scanned last, in the order of columnNames
	// location is the zone of the expiry; nil if it is UTC, or if the type of the
	// column has a zone.
	location *time.Location
	anyID    bool
}

// discard is the target of the other columns.
type discard struct{}

// Scan implements sql.Scanner.
func (discard) Scan(any) error { return nil }

// columns finds the columns and checks that their types can be read. A wrong type
// is wrong in every row.
func (s *SQL) columns(types []*sql.ColumnType) (*columns, error) {
	c := &columns{anyID: s.anyID}
	var yielded []string
	for _, t := range types {
		yielded = append(yielded, t.Name())
		c.targets = append(c.targets, discard{})
	}
	for i, name := range columnNames {
		column := slices.Index(yielded, name)
		if column < 0 {
			return nil, s.error(fmt.Sprintf("the query yields no column %s; it yields %+.200q; want %s", name, strings.Join(yielded, ", "), allColumns),
				"name it: SELECT … AS "+name, nil)
		}
		if slices.Contains(yielded[column+1:], name) {
			return nil, s.error("the query yields two columns "+name+"; want one", "name the columns that are wanted instead of *", nil)
		}
		typeName := types[column].DatabaseTypeName()
		if err := s.checkType(name, typeName); err != nil {
			return nil, err
		}
		c.targets[column] = &c.values[i]
		if name == expiryColumn && typeName == s.dialect.localTimeType {
			c.location = s.location
		}
	}
	return c, nil
}

func (s *SQL) checkType(column, typeName string) error {
	d := s.dialect
	switch {
	case slices.Contains(d.textTypes, typeName), column == expiryColumn && slices.Contains(d.timeTypes, typeName):
		return nil
	case column == expiryColumn:
		return s.error(fmt.Sprintf("the query's %s is of the type %s; want %s, or text as of RFC 3339", column, typeName, strings.Join(d.timeTypes, " or ")),
			"convert it, for example "+d.fromUnix+" AS "+column+" where it counts seconds since 1970", nil)
	default:
		return s.error(fmt.Sprintf("the query's %s is of the type %s; want text", column, typeName),
			fmt.Sprintf("cast it to text: CAST(%s AS %s) AS %s", column, d.castTo, column), nil)
	}
}

// lock makes a lock, or a *RowError, of the row that was scanned last.
func (c *columns) lock(row int) (tasks.Lock, error) {
	user, errUser := c.text(0)
	lock, errLock := c.text(1)
	if err := cmp.Or(errUser, errLock, tasks.LockID{UserID: user, LockID: lock}.Validate()); err != nil {
		return tasks.Lock{}, &RowError{Row: row, Err: err}
	}
	var at time.Time
	var err error
	if !c.anyID {
		err = tasks.CheckPlausible(tasks.LockRelease{UserID: user, LockID: lock})
	}
	if err == nil {
		at, err = c.expiry()
	}
	if err == nil {
		err = checkExpiry(at)
	}
	if err != nil {
		return tasks.Lock{}, &RowError{Row: row, UserID: user, LockID: lock, Err: err}
	}
	return tasks.Lock{UserID: user, LockID: lock, ExpiresAt: at.UTC()}, nil
}

func (c *columns) expiry() (time.Time, error) {
	const column = len(columnNames) - 1
	if at, ok := c.values[column].(time.Time); ok {
		if c.location != nil {
			_, at = LocalTimes(at, c.location) // the later one keeps the lock longer
		}
		return at, nil
	}
	text, err := c.text(column)
	if err != nil {
		return time.Time{}, err
	}
	if strings.HasSuffix(text, "infinity") {
		return time.Time{}, &tasks.FieldError{Field: expiryColumn, Problem: "is " + text + "; want a time, or leave such locks out"}
	}
	return tasks.ParseTime(expiryColumn, text)
}

// text returns the value of a column, by its place in columnNames.
func (c *columns) text(column int) (string, error) {
	switch v := c.values[column].(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case nil:
		return "", &tasks.FieldError{Field: columnNames[column], Problem: "is NULL"}
	default: // a driver may return another type for the column types that were checked
		return "", &tasks.FieldError{Field: columnNames[column], Problem: fmt.Sprintf("came as a %T", v)}
	}
}
