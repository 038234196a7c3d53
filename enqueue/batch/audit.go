package batch

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/tasks"
)

// Audit is a batch counted again.
type Audit struct {
	// Balance is what the counters say.
	Balance tasks.BatchStats `json:"balance"`
	// Counted is what the states say, by their names.
	Counted map[string]int64 `json:"counted"`
	// Receipts is the number of receipts; -1 for a batch without.
	Receipts int64 `json:"receipts"`
	// Problems says where these disagree. None: the audit is clean.
	Problems []string `json:"problems"`
}

// Clean reports whether everything agrees.
func (a *Audit) Clean() bool { return len(a.Problems) == 0 }

// auditCmd reads a batch as of one moment. It is a script, since a Redis that is
// full refuses transactions.
//
// KEYS -> meta, states, receipts
// --
// ARGV -> fields of meta
//
// Returns the fields, the states and the number of receipts.
var auditCmd = redis.NewScript(`
return {redis.call("HMGET", KEYS[1], unpack(ARGV)), redis.call("GET", KEYS[2]), redis.call("XLEN", KEYS[3])}
`)

// Audit counts the states of a batch, all as of one moment, and compares them
// with the counters and with the number of receipts.
func (s *Store) Audit(ctx context.Context, id string) (Audit, error) {
	if tasks.ValidateBatchID(id) != nil {
		return Audit{}, &NotFoundError{ID: id}
	}
	k := keysOf(id)
	args := []any{"with_receipts", "revisions", "sealed", "children", "abandoned"}
	for _, field := range balanceFields {
		args = append(args, field)
	}
	reply, err := auditCmd.Run(ctx, s.rdb, []string{k.meta, k.states, k.receipts}, args...).Slice()
	if err == nil && len(reply) != 3 {
		err = fmt.Errorf("%d values; want 3", len(reply))
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
	if a.Balance, err = readBalance(id, meta[5:]); err != nil {
		return Audit{}, err
	}
	counts := count(states)
	a.compare("total", a.Balance.Total, sum(counts[Queued:]))
	for state := Queued; state < numStates; state++ {
		a.Counted[state.String()] = counts[state]
		a.compare(state.String(), counterOf(a.Balance, state), counts[state])
	}
	for state := numStates; state < len(counts); state++ {
		if counts[state] > 0 {
			a.Problems = append(a.Problems, fmt.Sprintf("%d indexes have the unknown state %d", counts[state], state))
		}
	}
	if meta[4] == nil { // of an abandoned input nobody knows how long it is
		if err := a.checkInput(meta[2], meta[3]); err != nil {
			return Audit{}, fmt.Errorf("audit batch %s: %w", id, err)
		}
	}
	with, _ := meta[0].(string)
	if with != "1" {
		a.Receipts = -1
		return a, nil
	}
	revisions := int64(0)
	if text, ok := meta[1].(string); ok {
		if revisions, err = strconv.ParseInt(text, 10, 64); err != nil {
			return Audit{}, fmt.Errorf("audit batch %s: revisions: %w", id, err)
		}
	}
	settled := sum(counts[Succeeded : Discarded+1])
	if want := settled + revisions; a.Receipts != want {
		a.Problems = append(a.Problems, fmt.Sprintf("there are %d receipts; want %d, for %d outcomes and %d revisions", a.Receipts, want, settled, revisions))
	}
	return a, nil
}

// checkInput looks for items of the input that have no state.
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
			return fmt.Errorf("%q is no number", text)
		}
	}
	if want := n[0] + n[1]; a.Balance.Total != want {
		a.Problems = append(a.Problems, fmt.Sprintf("the total is %d; want %d, for %d items of the input and %d that off-boardings found", a.Balance.Total, want, n[0], n[1]))
	}
	return nil
}

func (a *Audit) compare(name string, counter, counted int64) {
	if counter != counted {
		a.Problems = append(a.Problems, fmt.Sprintf("the counter of %s is %d, and %d are so", name, counter, counted))
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

func counterOf(b tasks.BatchStats, s State) int64 {
	switch s {
	case Queued:
		return b.Queued
	case Succeeded:
		return b.Succeeded
	case AlreadyGone:
		return b.AlreadyGone
	case Superseded:
		return b.Superseded
	case Dead:
		return b.Dead
	case Discarded:
		return b.Discarded
	case Duplicate:
		return b.Duplicate
	case Rejected:
		return b.Rejected
	default:
		return 0
	}
}
