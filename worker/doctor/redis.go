package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/worker/clock"
	"github.com/kooworker/kooworker/worker/outage"
	"github.com/kooworker/kooworker/worker/redischeck"
)

// node is a server that has keys: the only one, or a master of a cluster.
type node struct {
	redis.UniversalClient
	addr string // "" if there is only one
	info map[string]string
	err  error // why there is no info
	// What package redischeck says of it, and why it cannot say all.
	problems []redischeck.Problem
	problem  error
}

// of begins a sentence about the node.
func (n *node) of() string {
	if n.addr == "" {
		return ""
	}
	return n.addr + ": "
}

// number reads a field of INFO; 0 if there is none.
func (n *node) number(field string) int64 {
	v, _ := strconv.ParseInt(n.info[field], 10, 64)
	return v
}

func (d *Doctor) redisChecks() []check {
	return []check{
		{"redis.reachable", pingLimit, d.reachable},
		{"redis." + redischeck.Version, redisLimit, d.version},
		{"redis." + redischeck.Eviction, redisLimit, d.fit(redischeck.Eviction, "maxmemory_policy", "maxmemory-policy is", evictionHint)},
		{"redis." + redischeck.Persistence, redisLimit, d.persistence},
		{"redis.memory", redisLimit, d.eachNode(memory)},
		{"redis.replication", redisLimit, d.eachNode(replication)},
		{"redis.permissions", redisLimit, d.permissions},
		{"redis.latency", redisLimit, d.latency},
		{"redis.clock", redisLimit, d.clock},
	}
}

// reachable pings Redis, or each master of a cluster, and reads what it says of itself.
func (d *Doctor) reachable(ctx context.Context) ([]Finding, error) {
	pingErr := d.findNodes(ctx)
	switch {
	case redis.HasErrorPrefix(pingErr, "NOPERM"): // the others tell what else is not allowed
	case isReply(pingErr):
		d.redisAway = "Redis refuses to serve"
		return []Finding{wrong(outage.Hint(pingErr), "Redis answers, and refuses to serve: %v", pingErr)}, nil
	case pingErr != nil:
		d.redisAway = "Redis cannot be reached"
		return []Finding{wrong(outage.Hint(pingErr), "Redis cannot be reached: %v", pingErr)}, nil
	}
	for _, n := range d.nodes {
		text, err := n.Info(ctx).Result()
		n.err, n.info = err, redischeck.ParseInfo(text)
	}
	if pingErr != nil {
		return []Finding{wrong("redis-cli ACL SETUSER NAME +ping; redis.permissions says what else is missing", "Redis answers, and refuses a PING: %v", pingErr)}, nil
	}
	if _, isCluster := d.cfg.Redis.(*redis.ClusterClient); !isCluster {
		return ok("Redis answers"), nil
	}
	info, err := d.nodes[0].ClusterInfo(ctx).Result()
	if err == nil && !strings.Contains(info, "cluster_state:ok") {
		return []Finding{wrong("redis-cli CLUSTER INFO and CLUSTER NODES say which slots have no master", "the cluster says that it is not well: cluster_state is not ok")}, nil
	}
	return ok("all %d masters of the cluster answer", len(d.nodes)), nil
}

func (d *Doctor) findNodes(ctx context.Context) error {
	cluster, isCluster := d.cfg.Redis.(*redis.ClusterClient)
	if !isCluster {
		d.nodes = []*node{{UniversalClient: d.cfg.Redis}}
		return d.cfg.Redis.Ping(ctx).Err()
	}
	found := make(chan *node, 1000)
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		addr := master.Options().Addr
		err := master.Ping(ctx).Err()
		if err == nil || redis.HasErrorPrefix(err, "NOPERM") {
			found <- &node{UniversalClient: master, addr: addr}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
		return nil
	})
	close(found)
	for n := range found {
		d.nodes = append(d.nodes, n)
	}
	slices.SortFunc(d.nodes, func(a, b *node) int { return strings.Compare(a.addr, b.addr) })
	if err == nil && len(d.nodes) == 0 {
		err = errors.New("the cluster has no master")
	}
	return err
}

// eachNode returns a check that looks at each node. Of several that are well it makes one finding.
func (d *Doctor) eachNode(look func(*node) []Finding) func(context.Context) ([]Finding, error) {
	return func(context.Context) ([]Finding, error) {
		var bad []Finding
		var well []string
		for _, n := range d.nodes {
			if n.err != nil {
				return bad, n.err
			}
			for _, f := range look(n) {
				if f.Detail = n.of() + f.Detail; f.Status == OK {
					well = append(well, f.Detail)
				} else {
					bad = append(bad, f)
				}
			}
		}
		if len(bad) > 0 {
			return bad, nil
		}
		return ok("%s", strings.Join(well, "; ")), nil
	}
}

// version asks package redischeck, for this check and the next ones.
func (d *Doctor) version(ctx context.Context) ([]Finding, error) {
	for _, n := range d.nodes {
		n.problems, n.problem = redischeck.Find(ctx, n.UniversalClient)
	}
	return d.fit(redischeck.Version, "redis_version", "version", "upgrade Redis to 6.2 or newer; 7.0 and later are tested")(ctx)
}

const evictionHint = "redis-cli CONFIG SET maxmemory-policy noeviction; and the line \"maxmemory-policy noeviction\" in redis.conf, so that it holds after a restart"

// fit returns a check of what package redischeck finds under a name.
func (d *Doctor) fit(name, field, label, hint string) func(context.Context) ([]Finding, error) {
	return func(context.Context) (out []Finding, err error) {
		var values []string
		for _, n := range d.nodes {
			for _, p := range n.problems {
				if p.Name == name {
					out = append(out, wrong(hint, "%s%s", n.of(), p.Text))
				}
			}
			switch value := n.info[field]; {
			case value == "", n.problem != nil && !redis.HasErrorPrefix(n.problem, "NOPERM"):
				err = errors.Join(err, n.problem, n.err)
			case !slices.Contains(values, value):
				values = append(values, value)
			}
		}
		if len(out) > 0 || err != nil {
			return out, err
		}
		return ok("%s %s", label, strings.Join(values, ", ")), nil
	}
}

// persistence tells apart what redischeck takes together, since the hints differ.
func (d *Doctor) persistence(context.Context) (out []Finding, err error) {
	const on = "redis-cli CONFIG SET appendonly yes; and the line \"appendonly yes\" in redis.conf, so that it holds after a restart"
	for _, n := range d.nodes {
		for _, p := range n.problems {
			if p.Name != redischeck.Persistence {
				continue
			}
			hint := on
			if n.info["aof_enabled"] == "1" || n.info["rdb_last_bgsave_status"] == "err" {
				hint = p.Hint + "; redis-cli INFO persistence shows whether it works again"
			}
			out = append(out, wrong(hint, "%s%s", n.of(), p.Text))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	onlySnapshots := false
	for _, n := range d.nodes {
		switch {
		case n.info["aof_enabled"] == "":
			return nil, errors.Join(n.problem, n.err)
		case n.info["aof_enabled"] == "0" && n.problem != nil: // the setting save is not known
			return nil, n.problem
		case n.info["aof_enabled"] == "0":
			onlySnapshots = true
		case n.info["aof_last_bgrewrite_status"] == "err":
			out = append(out, warning("look at Redis' log, and at the space on its disk", "%sthe last rewrite of the append-only file failed: it grows until one succeeds", n.of()))
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case onlySnapshots:
		return []Finding{warning(on, "Redis writes snapshots only: a crash forgets the tasks since the last one, and repeats what was done since")}, nil
	default:
		return ok("the append-only file is on, and its last write has succeeded"), nil
	}
}

const (
	memoryWarning = 0.75 // of the limit
	memoryError   = 0.90
	mebibyte      = 1 << 20
)

// memory compares the memory in use with Redis' limit, and with that of the machine.
func memory(n *node) []Finding {
	used, limit, host := n.number("used_memory"), n.number("maxmemory"), n.number("total_system_memory")
	what := "of its limit (maxmemory)"
	if limit == 0 || host > 0 && host < limit {
		limit, what = host, "of the machine's memory; there is no lower limit (maxmemory)"
	}
	if limit == 0 {
		return ok("Redis uses %d MiB, and has no limit", used/mebibyte)
	}
	share := float64(used) / float64(limit)
	detail := fmt.Sprintf("Redis uses %d of %d MiB, %.0f %% %s", used/mebibyte, limit/mebibyte, 100*share, what)
	const hint = "give Redis more memory (redis-cli CONFIG SET maxmemory SIZE, and in redis.conf), or let more workers make room; kooworker queue list and kooworker batch list show what is stored"
	// What Redis goes by: the buffers of replicas and of the append-only file do not count.
	isFull := n.number("maxmemory") > 0 && used-n.number("mem_not_counted_for_evict") > n.number("maxmemory")
	switch {
	case isFull && n.info["maxmemory_policy"] == "noeviction":
		return []Finding{wrong(hint, "%s; it is full: it refuses new tasks now", detail)}
	case isFull:
		return []Finding{wrong(hint, "%s; it is full: it deletes keys to make room, or refuses new tasks", detail)}
	case share >= memoryError:
		return []Finding{wrong(hint, "%s: soon it refuses new tasks", detail)}
	case share >= memoryWarning:
		return []Finding{warning(hint, "%s", detail)}
	default:
		return ok("%s", detail)
	}
}

// maxReplicaLag is how many seconds may have passed since a replica has last acknowledged.
const maxReplicaLag = 10

// replication looks whether this is a primary, and whether its replicas follow.
func replication(n *node) (out []Finding) {
	if role := n.info["role"]; role != "master" {
		return []Finding{wrong("name the primary, or the sentinels, in --redis-url", "this Redis is a %s: it takes no tasks", role)}
	}
	for i := range n.number("connected_slaves") {
		fields := make(map[string]string) // ip=…,port=…,state=online,offset=…,lag=0
		for part := range strings.SplitSeq(n.info[fmt.Sprintf("slave%d", i)], ",") {
			key, value, _ := strings.Cut(part, "=")
			fields[key] = value
		}
		replica := fields["ip"] + ":" + fields["port"]
		lag, _ := strconv.Atoi(fields["lag"])
		const hint = "look at the log of that replica, and at the network between the two; a failover to it would forget tasks"
		switch {
		case fields["state"] != "online":
			out = append(out, warning(hint, "replica %s is not in step: its state is %s", replica, fields["state"]))
		case lag > maxReplicaLag:
			out = append(out, warning(hint, "replica %s has acknowledged nothing for %d s", replica, lag))
		}
	}
	if good, isSet := n.info["min_slaves_good_slaves"]; isSet && good == "0" {
		out = append(out, wrong("bring a replica back; or redis-cli CONFIG SET min-replicas-to-write 0, if tasks on one machine are enough",
			"Redis wants replicas that acknowledge (min-replicas-to-write), and none does: it refuses writes"))
	}
	if len(out) > 0 {
		return out
	}
	return ok("it is a primary%s", withReplicas(n.number("connected_slaves")))
}

func withReplicas(n int64) string {
	if n == 0 {
		return " without replicas"
	}
	return " with " + humanize.Count(n, "replicas") + " in step"
}

const (
	pings = 20
	// What a healthy Redis does not exceed. A worker works with slower ones.
	maxMedian = 20 * time.Millisecond
	maxPing   = 500 * time.Millisecond
	// slowCommand is the least time of a command in the slow log that is told.
	slowCommand = 100 * time.Millisecond
	slowWithin  = time.Hour
	slowEntries = 128
)

// latency measures the round trip, and reads the slow log.
func (d *Doctor) latency(ctx context.Context) (out []Finding, err error) {
	var took []time.Duration
	for range pings {
		began := time.Now()
		if err := d.cfg.Redis.Ping(ctx).Err(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	median, longest := took[len(took)/2], took[len(took)-1]
	detail := fmt.Sprintf("a PING takes %s (median), at most %s", humanize.Round(median), humanize.Round(longest))
	if median > maxMedian || longest > maxPing {
		out = append(out, warning("redis-cli --latency and redis-cli LATENCY DOCTOR say more; look for a slow network, a busy machine, other users of this Redis", "%s: that is slow", detail))
	}
	for _, n := range d.nodes {
		entries, err := n.SlowLogGet(ctx, slowEntries).Result()
		if err != nil {
			detail += "; the slow log cannot be read (ACL: +slowlog)"
			break
		}
		if f, isSlow := slowest(entries, time.Now()); isSlow {
			f.Detail = n.of() + f.Detail
			out = append(out, f)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return ok("%s", detail), nil
}

// slowest tells of the slowest of the commands that were slow lately.
func slowest(entries []redis.SlowLog, now time.Time) (Finding, bool) {
	var worst redis.SlowLog
	n := int64(0)
	for _, e := range entries {
		if e.Duration < slowCommand || now.Sub(e.Time) > slowWithin || len(e.Args) == 0 {
			continue
		}
		if n++; e.Duration > worst.Duration {
			worst = e
		}
	}
	if n == 0 {
		return Finding{}, false
	}
	name := strings.ToUpper(worst.Args[0]) // the other arguments may be somebody's data
	return warning("redis-cli SLOWLOG GET shows them; while one runs, everybody waits", "%s took more than %s in the last hour; the slowest, %s, took %s",
		humanize.Count(n, "commands"), slowCommand, name, humanize.Round(worst.Duration)), true
}

// clock compares this machine's clock with Redis' clock.
func (d *Doctor) clock(ctx context.Context) ([]Finding, error) {
	c := clock.New(d.cfg.Redis, zap.NewNop())
	if err := c.Measure(ctx); err != nil {
		return nil, err
	}
	if err := c.Check(ctx); err != nil {
		return []Finding{wrong("let NTP set the clocks of both machines (timedatectl status); a worker on this machine takes no tasks until then", "this machine's clock is %v", err)}, nil
	}
	ahead, within, _ := c.Ahead()
	return ok("%s, give or take %s", compared(ahead, "Redis' clock"), humanize.Round(within)), nil
}

// compared says how this machine's clock differs from another.
func compared(ahead time.Duration, other string) string {
	if ahead.Abs() < time.Millisecond {
		return "this machine's clock agrees with " + other
	}
	if ahead < 0 {
		return fmt.Sprintf("this machine's clock is %s behind %s", humanize.Round(-ahead), other)
	}
	return fmt.Sprintf("this machine's clock is %s ahead of %s", humanize.Round(ahead), other)
}
