// Package source reads the lists of backup locks that exist besides the ledger in
// Redis: a file ([File]), or the table of a backup service in PostgreSQL, MySQL or
// MariaDB ([SQL]).
//
// It only reads. Package worker/locks calls it: a sweep reads the list of locks and
// decides which are stale, and a release checks just before its call whether the
// lock was renewed or is gone. The package imports tasks and the file reader
// enqueue/records. It must not import Redis, asynq or any other package of the
// worker.
//
// Releasing a live lock breaks a backup, but a lock that is kept is released by the
// next sweep. So in doubt this package keeps the lock: an incomplete list always
// ends with an error, an expiry that could be a placeholder is refused, and if a
// lock is listed more than once its latest expiry counts.
//
// # Times
//
// A MySQL DATETIME and a PostgreSQL timestamp have no zone. They are read in the
// zone of Config.Location. If the table means another zone, live locks look stale.
// A type with a zone (TIMESTAMP, timestamptz) keeps its zone. Text must be RFC 3339,
// which names the zone.
//
// The session's time zone is UTC, whatever the server's is, so that a MySQL
// TIMESTAMP is transferred correctly. Instead of Location the query may convert:
// expires_at AT TIME ZONE 'Europe/Berlin' in PostgreSQL, CONVERT_TZ(expires_at,
// '+01:00', '+00:00') in MySQL.
//
// # One row for each lock
//
// If a table keeps history, the query must select the current row of each lock:
// MAX(expires_at) AS expires_at … GROUP BY user_id, lock_id. Locks yields every
// row, and counts and guard rails would count each of them. But no lock is released
// because of an old row, since Lookup returns the latest expiry.
//
// # One implementation for all databases
//
// All databases are used through database/sql, so that the difficult parts (rows in
// bounded memory, broken connections, time limits, checks of columns) exist once.
// The few differences are in type dialect.
//
// # Secrets
//
// No error, and nothing that fmt prints of a type of this package, contains the
// password of a DSN. If a driver cannot parse a DSN, its error is not passed on:
// the driver cannot know where the password ends.
package source
