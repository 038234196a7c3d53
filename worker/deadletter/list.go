package deadletter

import (
	"context"
	"iter"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// List yields the letters that match, the latest death first. It ends with an error if
// Redis fails. Letters that arrive are included, and letters that are being replayed are
// not.
func (s *Store) List(ctx context.Context, f Filter) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		n := 0
		for page, err := range s.matches(ctx, f) {
			if err != nil {
				yield(Letter{}, err)
				return
			}
			for _, m := range page {
				if !yield(m.letter, nil) {
					return
				}
				if n++; n == f.Limit {
					return
				}
			}
		}
	}
}

// Stats counts the dead letters.
type Stats struct {
	Total    int                  `json:"total"`
	ByReason map[tasks.Reason]int `json:"by_reason"`
	ByKind   map[tasks.Kind]int   `json:"by_kind"`
}

// Stats counts the letters that match.
func (s *Store) Stats(ctx context.Context, f Filter) (Stats, error) {
	stats := Stats{ByReason: map[tasks.Reason]int{}, ByKind: map[tasks.Kind]int{}}
	for l, err := range s.List(ctx, f) {
		if err != nil {
			return Stats{}, err
		}
		stats.add(l)
	}
	return stats, nil
}

func (s *Stats) add(l Letter) {
	s.Total++
	s.ByReason[l.Reason]++
	s.ByKind[l.Kind]++
}

// Page is some letters that match a filter, the latest death first.
type Page struct {
	Letters []Letter
	// Next is where to go on. It is the zero value if all letters were looked at.
	Next Position
	// Looked is how many entries of the index this page has looked at, and Entries is how many
	// there are from the first page on. Few letters on a page that has a Next mean that the
	// time was over.
	Looked, Entries int64
}

// Page returns the next letters that match, behind a position: n at most, and those that are found
// within the budget of time. A page without letters may have a Next as well. Letters that
// die while somebody turns the pages are on none of them.
//
// It reads the index, whatever the filter, and ignores f.Limit. No script takes Redis longer
// than some 2 ms.
func (s *Store) Page(ctx context.Context, f Filter, at Position, n int, budget time.Duration) (page Page, err error) {
	ends := time.Now().Add(budget)
	src, err := s.source(ctx, f)
	if err != nil {
		return page, err
	}
	page.Entries = src.entries
	// Most filters match all that is read, so the first look is no larger than the page.
	for size := min(max(n, 1), pageSize); ; size = pageSize {
		entries, next, isEnd, err := s.read(ctx, src, at, size)
		if err != nil {
			return page, err
		}
		for i, e := range entries {
			l, ok := src.selects(f, e)
			if !ok {
				continue
			}
			if page.Letters = append(page.Letters, l); len(page.Letters) < n {
				continue
			}
			page.Looked += int64(i) + 1
			if i+1 < len(entries) || !isEnd {
				page.Next = e.position()
			}
			return page, nil
		}
		page.Looked, at = page.Looked+int64(len(entries)), next
		if isEnd {
			page.Next = Position{}
			return page, nil
		}
		if page.Next = at; !time.Now().Before(ends) {
			return page, nil
		}
	}
}

// Count is a number of letters that match.
type Count struct {
	Letters int64
	// Next is where to go on counting. It is the zero value if all letters were looked at.
	Next Position
	// Looked and Entries are as in Page.
	Looked, Entries int64
}

// Count counts the letters that match behind a position, as far as it comes within the budget of
// time: about 40,000 in 200 ms.
func (s *Store) Count(ctx context.Context, f Filter, at Position, budget time.Duration) (count Count, err error) {
	ends := time.Now().Add(budget)
	src, err := s.source(ctx, f)
	if err != nil {
		return count, err
	}
	count.Entries = src.entries
	for {
		entries, next, isEnd, err := s.read(ctx, src, at, pageSize)
		if err != nil {
			return count, err
		}
		count.Letters += int64(len(src.selectFrom(f, entries)))
		count.Looked, at = count.Looked+int64(len(entries)), next
		if isEnd {
			count.Next = Position{}
			return count, nil
		}
		if count.Next = at; !time.Now().Before(ends) {
			return count, nil
		}
	}
}
