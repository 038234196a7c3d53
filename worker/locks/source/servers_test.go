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
	s, err := Open(t.Context(), d.DSN(), query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
