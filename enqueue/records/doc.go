// Package records reads files of tasks and of locks, line by line: CSV with a
// header, and JSON Lines. A line that cannot be used becomes a [LineError], and
// the next lines follow. [Rejects] writes such lines to a file of their own, to
// be repaired and read again.
//
// Package enqueue gets its bulk input from here, the ledger of locks what it tracks,
// and the sweeps the files that list locks. The package reads text and knows nothing
// of Redis or queues: it imports only the vocabulary of package tasks.
//
// # Formats
//
// The columns of CSV, and the members of a JSON object, are user_id and
// device_id for unbinds, user_id and lock_id for releases and for locks, and
// user_id for off-boardings. Locks may also have expires_at. Columns may stand in
// any order. Other columns and members are ignored, and so are blank lines.
//
// A CSV line has as many columns as the header. If one is missing or too many,
// the value in the right place may be the wrong one, so the line is refused. A
// record is one line: a field in quotes may hold commas but no line break. No id
// has a line break, so a stray quote spoils only its own line.
//
// A JSON object gives each member once. Tasks are also read from lines that were
// exported from the dead letters, which name the target of every kind "target". So
// are locks, unless every lock must have an expiry: dead letters have none.
//
// A file that begins like gzip is decompressed. The checksum comes last, so some
// records of a damaged file are yielded before the error. A byte order mark at the
// beginning is skipped.
package records
