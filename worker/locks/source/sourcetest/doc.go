// Package sourcetest gives tests a real PostgreSQL and a real MariaDB that know
// locks: started on loopback in temporary folders when a test first asks for
// them, shared by all tests of the process, and stopped after the last one. It
// is for tests only and knows nothing of kooworker.
//
// A machine without the servers fails the test and is told what to install: a
// query that was never tested against a database was not tested.
//
// A test that kills or restarts a server must not be parallel: it is then over
// before the parallel ones go on.
package sourcetest
