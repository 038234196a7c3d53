package source

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/worker/locks/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(sourcetest.ThenStop(m)) }

// database is a server that the source reads.
type database struct{ *sourcetest.Server }

// both returns the servers for tests that must pass with either.
func both(t *testing.T) []database {
	t.Helper()
	var both []database
	for _, s := range sourcetest.Both(t) {
		both = append(both, database{s})
	}
	return both
}

func (d database) open(t *testing.T, query string) *SQL {
	t.Helper()
	s, err := checked(t, d.DSN(), query)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checked returns a source, and what its check says.
func checked(t *testing.T, dsn, query string) (*SQL, error) {
	t.Helper()
	s, err := New(Config{DSN: dsn, Query: query})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, s.Check(t.Context())
}
