package batch

import (
	"context"
	"fmt"
	"slices"
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
	fields := slices.Concat([]string{"with_receipts", "abandoned", "sealed", "children", "revisions"}, statsFields)
	args := make([]any, len(fields))
	for i, field := range fields {
		args[i] = field
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
	if len(meta) != len(fields) {
		return Audit{}, &NotFoundError{ID: id}
	}
	if a.Stats, err = readStats(id, meta[5:]); err != nil {
		return Audit{}, err
	}
	withReceipts, abandoned, closed := meta[0] == "1", meta[1] != nil, meta[2] != nil
	var inputItems, children, revisions int64
	for i, n := range []*int64{&inputItems, &children, &revisions} {
		if text, ok := meta[2+i].(string); ok {
			if *n, err = strconv.ParseInt(text, 10, 64); err != nil {
				return Audit{}, fmt.Errorf("audit batch %s: %s is %q; want a number", id, fields[2+i], text)
			}
		}
	}
	counts := count(states)
	a.compare("total", a.Stats.Total, sum(counts[Queued:]))
	for i, counter := range counters(a.Stats) {
		state := Queued + State(i)
		a.Counted[state.String()] = counts[state]
		a.compare(state.String(), counter, counts[state])
	}
	for state := numStates; state < len(counts); state++ {
		if counts[state] > 0 {
			a.addProblem("%d indexes have the unknown state %d", counts[state], state)
		}
	}
	// Nobody knows how many items an abandoned input has.
	if want := inputItems + children; closed && !abandoned && a.Stats.Total != want {
		a.addProblem("the total is %d; want %d, for %d items of the input and %d tasks that off-boardings have found", a.Stats.Total, want, inputItems, children)
	}
	if !withReceipts {
		a.Receipts = -1
		return a, nil
	}
	outcomes := sum(counts[Succeeded : Discarded+1])
	if want := outcomes + revisions; a.Receipts != want {
		a.addProblem("there are %d receipts; want %d, for %d outcomes and %d revisions", a.Receipts, want, outcomes, revisions)
	}
	return a, nil
}

func (a *Audit) compare(name string, counter, counted int64) {
	if counter != counted {
		a.addProblem("the counter of %s is %d, but the states add up to %d", name, counter, counted)
	}
}

func (a *Audit) addProblem(format string, args ...any) {
	a.Problems = append(a.Problems, fmt.Sprintf(format, args...))
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

// counters returns the counters from Queued on, in the order of the states.
func counters(b tasks.BatchStats) []int64 {
	return []int64{b.Queued, b.Succeeded, b.AlreadyGone, b.Superseded, b.Dead, b.Discarded, b.Duplicate, b.Rejected}
}
