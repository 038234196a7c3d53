package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	enqueuelocks "github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/locks"
	locksource "github.com/kooworker/kooworker/worker/locks/source"
)

// sourceFlags name external sources of locks: a database, a file, or both.
type sourceFlags struct {
	DSN     string        `name:"source-dsn" placeholder:"DSN" help:"Database that holds the locks: postgres://user@host/database or mysql://user@host/database. A DSN with a password belongs in the environment, because ps shows command lines."`
	DSNFile string        `name:"source-dsn-file" placeholder:"FILE" help:"File that holds the DSN."`
	Query   string        `name:"source-query" placeholder:"SELECT" help:"Query that yields user_id, lock_id and expires_at, one row for each lock. See --source-zone for times."`
	Zone    string        `name:"source-zone" default:"UTC" placeholder:"ZONE" help:"Time zone of timestamp columns (PostgreSQL) and DATETIME columns (MySQL), which have no zone of their own, such as Europe/Berlin (${default})."`
	Timeout time.Duration `name:"source-timeout" default:"2m" placeholder:"DURATION" help:"Time-out of a query (${default})."`
	AnyID   bool          `name:"allow-any-id" help:"Accept ids that look like a spreadsheet's number (1.5E+18) or like no value (NULL, -). Without it, such locks of a source stay."`
	File    string        `name:"source-file" placeholder:"FILE" help:"File that holds the locks: CSV with the header user_id,lock_id,expires_at, or JSONL with these members."`
}

const sourceHelp = `External sources of locks, besides the ledger. A worker reads the source again just before it releases one of its locks: give all workers the same source.`

func (f sourceFlags) hasDatabase() bool { return f.DSN+f.DSNFile+f.Query != "" }

// sourceToSweep returns the source that a sweep reads: wanted if it is set, else the
// source that the flags name, else the lock ledger.
func (f sourceFlags) sourceToSweep(wanted tasks.SourceKind) (tasks.SourceKind, error) {
	switch {
	case wanted != "":
		return wanted, nil
	case f.hasDatabase() && f.File != "":
		return "", usagef("--source-file: there is a database as well; want one of them, or --sweep-source to say which of them is swept")
	case f.hasDatabase():
		return tasks.SourceSQL, nil
	case f.File != "":
		return tasks.SourceFile, nil
	default:
		return tasks.SourceLedger, nil
	}
}

// open returns the sources that the flags name, not connected yet. Its errors do
// not show the DSN.
func (f sourceFlags) open() ([]locksource.List, error) {
	zone, err := loadZone("--source-zone", f.Zone)
	if err != nil {
		return nil, err
	}
	if f.Timeout <= 0 {
		return nil, usagef("--source-timeout: %s; want more than 0", f.Timeout)
	}
	var sources []locksource.List
	if f.hasDatabase() {
		database, err := f.openDatabase(zone)
		if err != nil {
			return nil, err
		}
		sources = append(sources, database)
	}
	if f.File != "" {
		file, err := locksource.OpenFile(f.File, anyID(f.AnyID)...)
		if err != nil {
			closeSources(sources)
			return nil, usagef("--source-file: %w", err)
		}
		sources = append(sources, file)
	}
	return sources, nil
}

func (f sourceFlags) openDatabase(zone *time.Location) (*locksource.SQL, error) {
	dsn := f.DSN
	switch {
	case dsn != "" && f.DSNFile != "":
		return nil, usagef("--source-dsn-file: want only one of --source-dsn and --source-dsn-file")
	case f.DSNFile != "":
		text, err := os.ReadFile(f.DSNFile)
		if err != nil {
			return nil, usagef("--source-dsn-file: %w", err)
		}
		dsn = strings.TrimSpace(string(text))
		if dsn == "" {
			return nil, usagef("--source-dsn-file: %s is empty", f.DSNFile)
		}
	case dsn == "":
		return nil, usagef("--source-query: want --source-dsn or --source-dsn-file with it")
	}
	if f.Query == "" {
		return nil, usagef("--source-dsn: want --source-query with it")
	}
	s, err := locksource.New(locksource.Config{DSN: dsn, Query: f.Query, Timeout: f.Timeout, Location: zone, AllowAnyID: f.AnyID})
	if err != nil {
		return nil, usagef("--source-dsn: %w", err)
	}
	return s, nil
}

// loadZone returns the time zone that a flag names.
func loadZone(flag, name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, usagef("%s: %w; want a name such as UTC or Europe/Berlin", flag, err)
	}
	return zone, nil
}

func closeSources(sources []locksource.List) {
	for _, s := range sources {
		_ = s.Close()
	}
}

// lockSources joins each source with the record of its locks that were swept.
func lockSources(rdb redis.UniversalClient, sources []locksource.List) []*locks.External {
	external := make([]*locks.External, len(sources))
	for i, s := range sources {
		external[i] = locks.NewExternal(s, enqueuelocks.NewSweptStore(rdb, s.Kind()))
	}
	return external
}

// checkSources asks the database, if there is one, whether it can answer, and returns
// what is wrong. A worker starts nevertheless.
func checkSources(ctx context.Context, sources []locksource.List) error {
	const timeout = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, s := range sources {
		if database, ok := s.(*locksource.SQL); ok {
			if err := database.Check(ctx); err != nil {
				return fmt.Errorf("source %s: %w", s.Kind(), err)
			}
		}
	}
	return nil
}
