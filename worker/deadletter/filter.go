package deadletter

import (
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// KindUnknown in Filter.Kinds selects the letters of all kinds that this version does not
// know. It is also the kind of letters that have come without one.
const KindUnknown tasks.Kind = "unknown"

// Filter selects letters. The zero value selects all. A letter must match every
// field that is set.
type Filter struct {
	IDs     []string       `json:"ids,omitempty"`     // any of these
	Kinds   []tasks.Kind   `json:"kinds,omitempty"`   // any of these, which may be KindUnknown
	Reasons []tasks.Reason `json:"reasons,omitempty"` // any of these
	UserID  string         `json:"user_id,omitempty"`
	Batch   string         `json:"batch,omitempty"`
	// DeadBefore and DeadAfter bound the time of death.
	DeadBefore time.Time `json:"dead_before,omitzero"`
	DeadAfter  time.Time `json:"dead_after,omitzero"`
	// Limit is the greatest number of letters; 0 is no limit.
	Limit int `json:"limit,omitempty"`
}

// Empty reports whether the filter selects everything.
func (f Filter) Empty() bool {
	return len(f.IDs) == 0 && len(f.Kinds) == 0 && len(f.Reasons) == 0 && f.UserID == "" && f.Batch == "" &&
		f.DeadBefore.IsZero() && f.DeadAfter.IsZero() && f.Limit == 0
}

// matches reports whether the filter selects a letter. It ignores Limit.
func (f Filter) matches(l Letter) bool {
	switch {
	case len(f.IDs) > 0 && !slices.Contains(f.IDs, l.ID),
		len(f.Kinds) > 0 && !slices.Contains(f.Kinds, l.Kind) && !(slices.Contains(f.Kinds, KindUnknown) && !slices.Contains(tasks.Kinds(), l.Kind)),
		len(f.Reasons) > 0 && !slices.Contains(f.Reasons, l.Reason),
		f.UserID != "" && f.UserID != l.UserID,
		f.Batch != "" && f.Batch != l.Batch,
		!f.DeadBefore.IsZero() && !l.DeadAt.Before(f.DeadBefore),
		!f.DeadAfter.IsZero() && !l.DeadAt.After(f.DeadAfter):
		return false
	}
	return true
}

// mayMatch reports whether a message may be that of a letter which the filter selects. It only
// looks for the words that such a message has somewhere: this takes a tenth of the time of
// decoding it.
func (f Filter) mayMatch(message string) bool {
	if message == "" {
		return false
	}
	if f.UserID == "" && f.Batch == "" && len(f.Reasons) == 0 {
		return true
	}
	// What is escaped, or encoded, has to be decoded.
	if strings.Contains(message, `\u`) || strings.Contains(message, `"payload_base64"`) {
		return true
	}
	has := func(word string) bool { return !isPlain(word) || strings.Contains(message, word) }
	if !has(f.UserID) || !has(f.Batch) {
		return false
	}
	return len(f.Reasons) == 0 || slices.ContainsFunc(f.Reasons, func(r tasks.Reason) bool {
		return r == tasks.Undecodable || has(string(r)) // what cannot be decoded does not say so
	})
}

// isPlain reports whether a text is the same in JSON.
func isPlain(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}
