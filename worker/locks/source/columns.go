package source

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// columns takes the values out of rows.
type columns struct {
	targets []any // for Scan
	values  [len(columnNames)]any
	// location is where the expiry's clock is; nil if it is UTC's, or its type has
	// a zone.
	location *time.Location
}

// passedOver is where the other columns go.
type passedOver struct{}

// Scan implements sql.Scanner.
func (passedOver) Scan(any) error { return nil }

// columns finds the columns, and checks that what is in them can be read: a
// wrong type is wrong in every row.
func (s *SQL) columns(types []*sql.ColumnType) (*columns, error) {
	there := make([]string, len(types))
	for i, t := range types {
		there[i] = t.Name()
	}
	c := &columns{targets: make([]any, len(types))}
	for i := range c.targets {
		c.targets[i] = passedOver{}
	}
	for i, name := range columnNames {
		at := slices.Index(there, name)
		if at < 0 {
			return nil, s.error(fmt.Sprintf("the query yields no column %s; it yields %+.200q; want %s", name, strings.Join(there, ", "), joinNames(columnNames[:])),
				"name it: SELECT … AS "+name, nil)
		}
		if slices.Contains(there[at+1:], name) {
			return nil, s.error("the query yields two columns "+name+"; want one", "name the columns that are wanted instead of *", nil)
		}
		if err := s.checkType(name, types[at].DatabaseTypeName()); err != nil {
			return nil, err
		}
		c.targets[at] = &c.values[i]
		if name == expiryColumn && types[at].DatabaseTypeName() == s.dialect.zoneless {
			c.location = s.location
		}
	}
	return c, nil
}

func (s *SQL) checkType(column, is string) error {
	d := s.dialect
	switch {
	case slices.Contains(d.textTypes, is):
		return nil
	case column == expiryColumn && slices.Contains(d.timeTypes, is):
		return nil
	case column == expiryColumn:
		return s.error(fmt.Sprintf("the query's %s is of the type %s; want %s, or text as of RFC 3339", column, is, strings.Join(d.timeTypes, " or ")),
			"convert it, for example "+d.fromUnix+" AS "+column+" where it counts seconds since 1970", nil)
	default:
		return s.error(fmt.Sprintf("the query's %s is of the type %s; want text", column, is),
			fmt.Sprintf("cast it to text: CAST(%s AS %s) AS %s", column, d.castTo, column), nil)
	}
}

// lock makes a lock of the row that was scanned last.
func (c *columns) lock(row int) (tasks.Lock, *RowError) {
	var ids [2]string
	for i := range ids {
		var ok bool
		if ids[i], ok = text(c.values[i]); !ok {
			return tasks.Lock{}, &RowError{Row: row, Err: notRead(columnNames[i], c.values[i])}
		}
	}
	return readLock(row, ids, func() (time.Time, error) {
		value := c.values[len(ids)]
		if at, ok := value.(time.Time); ok {
			if c.location != nil {
				at = wallClock(at, c.location)
			}
			return at, nil
		}
		s, ok := text(value)
		switch {
		case !ok:
			return time.Time{}, notRead(expiryColumn, value)
		case strings.HasSuffix(s, "infinity"):
			return time.Time{}, &tasks.FieldError{Field: expiryColumn, Problem: "is " + s + "; want a time, or leave such locks out"}
		}
		return tasks.ParseTime(expiryColumn, s)
	})
}

func text(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), true
	default:
		return "", false
	}
}

func notRead(column string, value any) error {
	problem := "is NULL"
	if value != nil {
		problem = fmt.Sprintf("came as a %T", value) // not of the types that were checked
	}
	return &tasks.FieldError{Field: column, Problem: problem}
}
