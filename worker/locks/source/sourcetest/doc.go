// Package sourcetest starts a real PostgreSQL and a real MariaDB for tests of lock
// sources. The servers listen on loopback and use temporary folders. They start when
// a test first asks for them, all tests of the process share them, and they stop
// after the last test. The package is for tests only and knows nothing of kooworker.
//
// If a server is not installed, the test fails and says what to install: only a
// real database shows whether a query works.
//
// A test that kills or restarts a server must not be parallel. It then ends before
// the parallel tests continue.
package sourcetest
