package batch

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Audit compares a batch's counters with its states and receipts.
type Audit struct {
	// Stats is what the counters say.
	Stats tasks.BatchStats `json:"balance"`
	// Counted is how often each state occurs, by its name.
	Counted map[string]int64 `json:"counted"`
	// Receipts is the number of receipts; -1 for a batch without receipts.
	Receipts int64 `json:"receipts"`
	// Problems says where these disagree. It is empty if the audit is clean.
	Problems []string `json:"problems"`
}

// Clean reports whether everything agrees.
func (a *Audit) Clean() bool { return len(a.Problems) == 0 }

// auditCmd reads a batch at one moment. It is a script, since a Redis whose
// memory is full refuses transactions.
//
// KEYS -> meta, states, receipts
// --
// ARGV -> names of fields of meta
//
// Returns the values of the fields, the states and the number of receipts.
var auditCmd = redis.NewScript(`
return {redis.call("HMGET", KEYS[1], unpack(ARGV)), redis.call("GET", KEYS[2]), redis.call("XLEN", KEYS[3])}
`)

// Audit counts the states of a batch at one moment, and compares them with the
// counters and with the number of receipts.
func (s *Store) Audit(ctx context.Context, id string) (Audit, error) {
	if tasks.ValidateBatchID(id) != nil {
		return Audit{}, &NotFoundError{ID: id}
	}
	k := keysOf(id)
	args := []any{"with_receipts", "revisions", "sealed", "children", "abandoned"}
	for _, field := range statsFields {
		args = append(args, field)
	}
	reply, err := auditCmd.Run(ctx, s.rdb, []string{k.meta, k.states, k.receipts}, args...).Slice()
	if err == nil && len(reply) != 3 {
		err = fmt.Errorf("the reply has %d values; want 3", len(reply))
	}
	if err != nil {
		return Audit{}, fmt.Errorf("audit batch %s: %w", id, err)
	}
	meta, _ := reply[0].([]any)
	states, _ := reply[1].(string)
	a := Audit{Counted: make(map[string]int64), Problems: []string{}}
	a.Receipts, _ = reply[2].(int64)
	if len(meta) != len(args) {
		return Audit{}, &NotFoundError{ID: id}
	}
	if a.Stats, err = readStats(id, meta[5:]); err != nil {
		return Audit{}, err
	}
	counts := count(states)
	a.compare("total", a.Stats.Total, sum(counts[Queued:]))
	for state := Queued; state < numStates; state++ {
		a.Counted[state.String()] = counts[state]
		a.compare(state.String(), counterOf(a.Stats, state), counts[state])
	}
	for state := numStates; state < len(counts); state++ {
		if counts[state] > 0 {
			a.Problems = append(a.Problems, fmt.Sprintf("%d indexes have the unknown state %d", counts[state], state))
		}
	}
	if meta[4] == nil { // nobody knows how long an abandoned input is
		if err := a.checkInput(meta[2], meta[3]); err != nil {
			return Audit{}, fmt.Errorf("audit batch %s: %w", id, err)
		}
	}
	if withReceipts, _ := meta[0].(string); withReceipts != "1" {
		a.Receipts = -1
		return a, nil
	}
	revisions := int64(0)
	if text, ok := meta[1].(string); ok {
		if revisions, err = strconv.ParseInt(text, 10, 64); err != nil {
			return Audit{}, fmt.Errorf("audit batch %s: revisions: %w", id, err)
		}
	}
	outcomes := sum(counts[Succeeded : Discarded+1])
	if want := outcomes + revisions; a.Receipts != want {
		a.Problems = append(a.Problems, fmt.Sprintf("there are %d receipts; want %d, for %d outcomes and %d revisions", a.Receipts, want, outcomes, revisions))
	}
	return a, nil
}

// checkInput compares the total with the size of the input, once that is known.
func (a *Audit) checkInput(sealed, children any) error {
	if sealed == nil {
		return nil
	}
	var n [2]int64
	for i, v := range []any{sealed, children} {
		text, there := v.(string)
		if !there {
			continue
		}
		var err error
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
	}
	if want := n[0] + n[1]; a.Stats.Total != want {
		a.Problems = append(a.Problems, fmt.Sprintf("the total is %d; want %d, for %d items of the input and %d tasks that off-boardings have found", a.Stats.Total, want, n[0], n[1]))
	}
	return nil
}

func (a *Audit) compare(name string, counter, counted int64) {
	if counter != counted {
		a.Problems = append(a.Problems, fmt.Sprintf("the counter of %s is %d, but the states add up to %d", name, counter, counted))
	}
}

// count counts how often each state occurs.
func count(states string) (counts [16]int64) {
	for i := range len(states) {
		counts[states[i]>>4]++
		counts[states[i]&0x0f]++
	}
	return counts
}

func sum(counts []int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

func counterOf(stats tasks.BatchStats, s State) int64 {
	switch s {
	case Queued:
		return stats.Queued
	case Succeeded:
		return stats.Succeeded
	case AlreadyGone:
		return stats.AlreadyGone
	case Superseded:
		return stats.Superseded
	case Dead:
		return stats.Dead
	case Discarded:
		return stats.Discarded
	case Duplicate:
		return stats.Duplicate
	case Rejected:
		return stats.Rejected
	default:
		return 0
	}
}
