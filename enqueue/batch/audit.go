package batch

import (
	"context"
	"fmt"
	"strings"

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
//
// Returns the values of metaFields, the states and the number of receipts.
var auditCmd = redis.NewScript(`
local meta = redis.call("HMGET", KEYS[1], "` + strings.Join(metaFields, `", "`) + `")
return {meta, redis.call("GET", KEYS[2]), redis.call("XLEN", KEYS[3])}
`)

// Audit counts the states of a batch at one moment, and compares them with the
// counters and with the number of receipts.
func (s *Store) Audit(ctx context.Context, id string) (Audit, error) {
	if tasks.ValidateBatchID(id) != nil {
		return Audit{}, &NotFoundError{ID: id}
	}
	k := keysOf(id)
	reply, err := auditCmd.Run(ctx, s.rdb, []string{k.meta, k.states, k.receipts}).Slice()
	if err == nil && len(reply) != 3 {
		err = fmt.Errorf("the reply has %d values; want 3", len(reply))
	}
	if err != nil {
		return Audit{}, fmt.Errorf("audit batch %s: %w", id, err)
	}
	values, _ := reply[0].([]any)
	states, _ := reply[1].(string)
	receipts, _ := reply[2].(int64)
	stats, meta, err := readMeta(id, values)
	if err != nil {
		return Audit{}, err
	}
	a := Audit{Stats: stats, Counted: make(map[string]int64), Receipts: receipts, Problems: []string{}}
	counts := count(states)
	a.compare("total", stats.Total, sum(counts[Queued:]))
	for state := Queued; state < numStates; state++ {
		name := state.String()
		a.Counted[name] = counts[state]
		a.compare(name, meta[name], counts[state])
	}
	for state := numStates; state < len(counts); state++ {
		if counts[state] > 0 {
			a.addProblem("%d indexes have the unknown state %d", counts[state], state)
		}
	}
	items, closed := meta["sealed"]
	_, abandoned := meta["abandoned"] // nobody knows how many items an abandoned input has
	if want := items + meta["children"]; closed && !abandoned && stats.Total != want {
		a.addProblem("the total is %d; want %d, for %d items of the input and %d tasks that off-boardings have found", stats.Total, want, items, meta["children"])
	}
	if meta["with_receipts"] == 0 {
		a.Receipts = -1
		return a, nil
	}
	outcomes, revisions, forgotten := sum(counts[Succeeded:Discarded+1])+counts[Cancelled], meta["revisions"], meta["forgotten"]
	if want := outcomes + revisions - forgotten; a.Receipts != want {
		without := ""
		if forgotten > 0 {
			without = fmt.Sprintf(", without %d that were forgotten", forgotten)
		}
		a.addProblem("there are %d receipts; want %d, for %d outcomes and %d revisions%s", a.Receipts, want, outcomes, revisions, without)
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
