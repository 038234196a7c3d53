package main

import (
	"context"
	"errors"
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

// sourceFlags say where locks are known besides the ledger.
type sourceFlags struct {
	DSN     string        `name:"source-dsn" group:"source" placeholder:"DSN" help:"Database that knows the locks: postgres://user@host/database or mysql://user@host/database. With a password it belongs into the environment, not on a command line that ps shows."`
	DSNFile string        `name:"source-dsn-file" group:"source" placeholder:"FILE" help:"File that holds the DSN."`
	Query   string        `name:"source-query" group:"source" placeholder:"SELECT" help:"Query that yields user_id, lock_id and expires_at of every lock, in one row each. See --source-zone for times."`
	Zone    string        `name:"source-zone" group:"source" default:"UTC" placeholder:"ZONE" help:"Time zone of timestamp columns (PostgreSQL) and DATETIME columns (MySQL), which have none of their own, such as Europe/Berlin (${default})."`
	Timeout time.Duration `name:"source-timeout" group:"source" default:"2m" placeholder:"DURATION" help:"Give a query up after this long (${default})."`
	File    string        `name:"source-file" group:"source" placeholder:"FILE" help:"File that knows the locks: CSV with the header user_id,lock_id,expires_at, or JSONL with these members."`
}

const sourceHelp = `Where locks are known besides the ledger. A worker looks there again just before it releases one: give all workers the same.`

// given are the sources that the flags name.
func (f sourceFlags) given() (kinds []tasks.Source) {
	if f.DSN+f.DSNFile+f.Query != "" {
		kinds = append(kinds, tasks.SourceSQL)
	}
	if f.File != "" {
		kinds = append(kinds, tasks.SourceFile)
	}
	return kinds
}

// kind is what a sweep is about that names no source: the one that the flags
// name, or else the ledger.
func (f sourceFlags) kind(named tasks.Source) (tasks.Source, error) {
	given := f.given()
	switch {
	case named != "":
		return named, nil
	case len(given) > 1:
		return "", usagef("--source-file: there is a database as well; want one of them, or --sweep-source to say which of them is swept")
	case len(given) == 1:
		return given[0], nil
	default:
		return tasks.SourceLedger, nil
	}
}

// open returns what the flags name; it does not connect yet. A DSN is not shown
// in errors.
func (f sourceFlags) open() (sources []locksource.Source, err error) {
	zone, err := zoneOf("--source-zone", f.Zone)
	if err != nil {
		return nil, err
	}
	if f.Timeout <= 0 {
		return nil, usagef("--source-timeout: %s; want more than 0", f.Timeout)
	}
	defer func() {
		if err != nil {
			closeSources(sources)
			sources = nil
		}
	}()
	for _, kind := range f.given() {
		var s locksource.Source
		if kind == tasks.SourceSQL {
			s, err = f.database(zone)
		} else if s, err = locksource.OpenFile(f.File, ""); err != nil {
			err = usagef("--source-file: %w", err)
		}
		if err != nil {
			return sources, err
		}
		sources = append(sources, s)
	}
	return sources, nil
}

func (f sourceFlags) database(zone *time.Location) (locksource.Source, error) {
	dsn := f.DSN
	switch {
	case dsn != "" && f.DSNFile != "":
		return nil, usagef("--source-dsn-file: leave it out, or --source-dsn")
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
	s, err := locksource.New(locksource.Config{DSN: dsn, Query: f.Query, Timeout: f.Timeout, Location: zone})
	if err != nil {
		return nil, usagef("--source-dsn: %w", err)
	}
	return s, nil
}

// zoneOf is the time zone that a flag names.
func zoneOf(flag, name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, usagef("%s: %w; want a name such as UTC or Europe/Berlin", flag, err)
	}
	return zone, nil
}

func closeSources(sources []locksource.Source) {
	for _, s := range sources {
		_ = s.Close()
	}
}

// listed joins sources with the notes of what was swept of them.
func listed(rdb redis.UniversalClient, sources []locksource.Source) []*locks.External {
	all := make([]*locks.External, len(sources))
	for i, s := range sources {
		all[i] = locks.NewExternal(s, enqueuelocks.NewSweptStore(rdb, s.Kind()))
	}
	return all
}

// checkSources asks databases whether they can answer, and returns what is wrong.
// A worker starts all the same.
func checkSources(ctx context.Context, sources []locksource.Source) error {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var wrong error
	for _, s := range sources {
		if database, ok := s.(*locksource.SQL); ok {
			if err := database.Check(ctx); err != nil {
				wrong = errors.Join(wrong, fmt.Errorf("source %s: %w", s.Kind(), err))
			}
		}
	}
	return wrong
}
