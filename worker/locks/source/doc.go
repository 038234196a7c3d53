// Package source reads which backup locks there are from where a fleet keeps
// them besides the ledger in Redis: a file ([File]), or the table of a backup
// service in PostgreSQL, MySQL or MariaDB ([SQL]).
//
// It owns reading, and only that: nothing is written, and what is stale or may
// be released is for the sweep to say. The sweep calls it for the list of locks,
// and the worker calls it just before a release, to see whether the lock was
// renewed meanwhile or is gone. It must not import Redis, asynq or any sibling
// of this package; it knows the vocabulary of package tasks.
//
// A lock that is released although it lives breaks a backup, and one that stays
// is released by the next sweep. So where this package has a choice it errs on
// the side of the lock: a list that is cut short ends with an error and never
// silently, an expiry that could be a placeholder is refused, and of a lock that
// is named more than once the latest expiry counts.
//
// # Times
//
// A MySQL DATETIME and a PostgreSQL timestamp have no zone: they are taken as UTC,
// or as Config.Location says. A table in another zone's time, read as UTC, makes
// live locks look stale. What has a zone (TIMESTAMP, timestamptz) keeps it, and in
// text RFC 3339 is wanted, which names its zone.
//
// A local time that the clocks show twice, when they are put back, is the later of
// the two, and one that they leave out is the later one that it can be.
//
// The session's time zone is UTC, whatever the server's is, so that NOW() in a
// query is UTC and a MySQL TIMESTAMP comes over as it is meant. Without Location
// the query may convert as well: expires_at AT TIME ZONE 'Europe/Berlin' in
// PostgreSQL, CONVERT_TZ(expires_at, '+01:00', '+00:00') in MySQL.
//
// # One row for each lock
//
// Where a table keeps history the query takes what counts of it: MAX(expires_at)
// AS expires_at … GROUP BY user_id, lock_id. A list yields rows as they come, so
// that counts and guard rails would count each of them; a lock that has a later
// row is not released all the same, since a look sees the latest.
//
// # Two databases, one way
//
// Both are used through database/sql, pgx by its own adapter: what is hard here
// (rows in bounded memory, connections that break, time limits, the checks of
// columns) is then written once and is true of both. What differs is a short
// list, see dialect.
//
// # What is not shown
//
// No error, and nothing that fmt prints of a type of this package, holds the
// password of a DSN. A driver's own words about a DSN that it cannot read are
// not passed on: who cannot read it cannot know where the password ends.
package source
