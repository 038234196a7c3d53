package zset_test

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/internal/zset"
)

var rankCmd = redis.NewScript(zset.RankLua + `
return {rank(KEYS[1], ARGV[1], ARGV[2]), rank(KEYS[1], ARGV[1], ARGV[2] .. "\0")}
`)

// TestRank compares the rank with a count in Go, for members that are in the set
// and for some that are not. Many members share a score.
func TestRank(t *testing.T) {
	t.Parallel()
	mini := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = mini.Close() })
	for name, rdb := range map[string]*redis.Client{"redis": redistest.Start(t).Client(), "miniredis": mini} {
		members := map[string]float64{}
		for len(members) < 300 {
			member := make([]byte, 1+rand.N(4)) //nolint:gosec // no secret
			for i := range member {
				member[i] = byte(rand.N(3) * 127) //nolint:gosec // 0, 127 or 254
			}
			members[string(member)+strconv.Itoa(rand.N(20))] = float64(rand.N(3)) //nolint:gosec // no secret
		}
		var zs []redis.Z
		for member, score := range members {
			zs = append(zs, redis.Z{Member: member, Score: score})
		}
		if err := rdb.ZAdd(t.Context(), "set", zs...).Err(); err != nil {
			t.Fatal(err)
		}
		zs = append(zs, redis.Z{Member: "", Score: math.Inf(-1)}, redis.Z{Member: "", Score: math.Inf(1)}, redis.Z{Member: "", Score: 1},
			redis.Z{Member: "absent", Score: 1}, redis.Z{Member: "\xff\xff", Score: 2}, redis.Z{Member: "x", Score: 0.5})
		for _, z := range zs {
			member := z.Member.(string)
			want := []int64{0, 0}
			for m, score := range members {
				order := cmp.Or(cmp.Compare(score, z.Score), cmp.Compare(m, member))
				if order < 0 {
					want[0]++
				}
				if order <= 0 {
					want[1]++
				}
			}
			got, err := rankCmd.Run(t.Context(), rdb, []string{"set"}, strconv.FormatFloat(z.Score, 'g', -1, 64), member).Int64Slice()
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: the rank of %g %q, and of what follows it, is %v, %v; want %v", name, z.Score, member, got, err, want)
			}
		}
	}
}
