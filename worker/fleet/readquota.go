package fleet

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// Quota is what limits the calls of all workers together, in calls a second. A limit
// that is not known is not in it.
type Quota struct {
	Kinds   map[gate.Kind]float64 // KooDrive's, of one kind of calls
	Shared  float64               // KooDrive's, of calls of all kinds together; 0 if not known
	Ceiling float64               // the one with which a worker has asked for tokens last (--rate); 0 for none
}

// ReadQuota reads what the workers know of KooDrive's quota. It needs no worker that runs,
// and changes nothing. While no limit is known, none is in the answer: because no call was
// refused yet, because the workers are still searching for it, or because a quota is used
// up. What an older or a newer worker has written and this one cannot read counts as not
// known.
func ReadQuota(ctx context.Context, rdb redis.UniversalClient) (Quota, error) {
	names := []string{gate.SharedBucket}
	for _, kind := range gate.Kinds() {
		names = append(names, string(kind))
	}
	fields := []string{gate.CeilingBucket + ":rate"}
	for _, name := range names {
		fields = append(fields, name+":rate", name+":phase")
	}
	values, err := rdb.HMGet(ctx, quotaKey, fields...).Result()
	if err != nil {
		return Quota{}, fmt.Errorf("read the quota: %w", err)
	}
	out := Quota{Kinds: make(map[gate.Kind]float64), Ceiling: positive(values[0])}
	for i, name := range names {
		rate := positive(values[1+2*i])
		if phase, _ := values[2+2*i].(string); rate == 0 || quota.Phase(phase) != quota.Following {
			continue
		}
		if name == gate.SharedBucket {
			out.Shared = rate
		} else {
			out.Kinds[gate.Kind(name)] = rate
		}
	}
	return out, nil
}

// positive returns a number of a hash, 0 if it is none, or not more than 0.
func positive(value any) float64 {
	text, _ := value.(string)
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return 0
	}
	return n
}

// Limit returns how many calls of some kinds may be made a second together, 0 if that is
// not known. Without kinds it is what limits calls of any kind.
func (q Quota) Limit(kinds ...gate.Kind) float64 {
	sum := 0.0
	for _, kind := range kinds {
		if q.Kinds[kind] == 0 {
			sum = math.Inf(1)
		}
		sum += q.Kinds[kind]
	}
	limit := math.Inf(1)
	for _, rate := range []float64{sum, q.Shared, q.Ceiling} {
		if rate > 0 {
			limit = min(limit, rate)
		}
	}
	if math.IsInf(limit, 1) {
		return 0
	}
	return limit
}
