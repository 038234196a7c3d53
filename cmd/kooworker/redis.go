package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

type redisFlags struct {
	RedisURL     string   `name:"redis-url" env:"REDIS_URL" default:"redis://127.0.0.1:6379/0" placeholder:"URL" help:"Redis: redis://, rediss://, redis-socket://PATH or redis-sentinel://HOST,HOST?master=NAME (${default})."`
	RedisCluster []string `name:"redis-cluster" env:"REDIS_CLUSTER_NODES" placeholder:"HOST:PORT" help:"Nodes of a Redis cluster, separated by commas; instead of the URL's host, whose user and password are used."`
}

// dialTries is once: commands are repeated anyway, and a connection that is
// refused should say so before the deadline says less.
const dialTries = 1

// client makes a Redis client. It honours contexts, which go-redis's default
// does not: on a Redis that hangs, a deadline of 200 ms would last for seconds.
func (f redisFlags) client(poolSize int) (redis.UniversalClient, error) {
	if len(f.RedisCluster) > 0 {
		return f.cluster(poolSize)
	}
	scheme, _, _ := strings.Cut(f.RedisURL, "://")
	switch scheme {
	case "redis", "rediss":
		opt, err := f.tcp()
		if err != nil {
			return nil, err
		}
		opt.ContextTimeoutEnabled, opt.PoolSize, opt.DialerRetries = true, poolSize, dialTries
		return redis.NewClient(opt), nil
	case "redis-socket":
		return f.socket(poolSize)
	case "redis-sentinel":
		return f.sentinel(poolSize)
	default:
		return nil, redisUsage("unknown scheme")
	}
}

// factory checks the flags and returns what makes clients of them.
func (f redisFlags) factory(poolSize int) (func() redis.UniversalClient, error) {
	probe, err := f.client(poolSize)
	if err != nil {
		return nil, err
	}
	_ = probe.Close() // nothing was connected
	return func() redis.UniversalClient {
		client, _ := f.client(poolSize) // as just before
		return client
	}, nil
}

// redisUsage says what would be right. The problem is a fixed sentence: a URL
// that was refused is not repeated, no part of it and no other's words about
// it, since a special character in a password makes any part of the URL a part
// of the password.
func redisUsage(problem string) error {
	return usagef("--redis-url: %s; want redis://[user:password@]host[:port][/db], rediss://…, redis-socket:///path[?db=n] or redis-sentinel://host[:port][,host…][/db]?master=name; percent-encode special characters in the password", problem)
}

// parseRedisURL refuses besides what net/url would cut off without a word.
func parseRedisURL(text string) (*url.URL, url.Values, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, nil, redisUsage("not a URL")
	}
	if strings.Contains(text, "#") {
		return nil, nil, redisUsage("a URL of Redis has no #")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, redisUsage("what follows the ? is malformed; want name=value, joined by &")
	}
	return u, query, nil
}

// tcp reads redis:// and rediss://.
func (f redisFlags) tcp() (*redis.Options, error) {
	u, _, err := parseRedisURL(f.RedisURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, redisUsage("for a cluster the scheme is redis or rediss")
	}
	if port := u.Port(); port != "" && !validPort(port) {
		return nil, redisUsage("the host " + wrongPort)
	}
	if _, ok := database(strings.Trim(u.Path, "/")); !ok {
		return nil, redisUsage(wrongDatabase)
	}
	opt, err := redis.ParseURL(f.RedisURL)
	if err != nil {
		return nil, redisUsage("what follows the ? holds an option that go-redis does not know, or a wrong value of one")
	}
	if opt.DB < 0 { // of ?db=
		return nil, redisUsage(wrongDatabase)
	}
	return opt, nil
}

func (f redisFlags) socket(poolSize int) (redis.UniversalClient, error) {
	u, query, err := parseRedisURL(f.RedisURL)
	if err != nil {
		return nil, err
	}
	if u.Host != "" || u.Path == "" {
		return nil, redisUsage("a socket needs an absolute path")
	}
	db, ok := database(query.Get("db"))
	if !ok {
		return nil, redisUsage(wrongDatabase)
	}
	password, _ := u.User.Password()
	return redis.NewClient(&redis.Options{
		Network: "unix", Addr: u.Path, DB: db, Username: u.User.Username(), Password: password,
		ContextTimeoutEnabled: true, PoolSize: poolSize, DialerRetries: dialTries,
	}), nil
}

const (
	defaultSentinelPort = "26379"
	defaultRedisPort    = "6379"
)

// sentinel reads a URL with several hosts, which net/url refuses.
func (f redisFlags) sentinel(poolSize int) (redis.UniversalClient, error) {
	rest := strings.TrimPrefix(f.RedisURL, "redis-sentinel://")
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	credentials, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		credentials, hosts = authority[:i+1], authority[i+1:]
	}
	u, query, err := parseRedisURL("redis-sentinel://" + credentials + "sentinel" + tail)
	if err != nil {
		return nil, err
	}
	var addrs []string
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(host, defaultSentinelPort)
		if err != nil {
			return nil, redisUsage(fmt.Sprintf("host %d %v", len(addrs)+1, err))
		}
		addrs = append(addrs, addr)
	}
	master := query.Get("master")
	if master == "" {
		return nil, redisUsage("a sentinel needs ?master=name")
	}
	db, ok := database(strings.TrimPrefix(u.Path, "/"))
	if !ok {
		return nil, redisUsage(wrongDatabase)
	}
	password, _ := u.User.Password()
	return redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: master, SentinelAddrs: addrs, DB: db, Username: u.User.Username(), Password: password,
		SentinelPassword:      query.Get("sentinel_password"),
		ContextTimeoutEnabled: true, PoolSize: poolSize, DialerRetries: dialTries,
	}), nil
}

func (f redisFlags) cluster(poolSize int) (redis.UniversalClient, error) {
	opt := &redis.ClusterOptions{ContextTimeoutEnabled: true, PoolSize: poolSize, DialerRetries: dialTries}
	for i, node := range f.RedisCluster {
		addr, err := withPort(node, defaultRedisPort)
		if err != nil {
			return nil, usagef("--redis-cluster: node %d %w; want host:port,host:port…, and user and password in --redis-url", i+1, err)
		}
		opt.Addrs = append(opt.Addrs, addr)
	}
	base, err := f.tcp()
	if err != nil {
		return nil, err
	}
	if base.DB != 0 {
		return nil, usagef("--redis-cluster: a cluster has database 0 only, and --redis-url names another")
	}
	opt.Username, opt.Password = base.Username, base.Password
	if base.TLSConfig != nil {
		opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return redis.NewClusterClient(opt), nil
}

const (
	wrongPort     = "has a port that is no number from 1 to 65535"
	wrongDatabase = "the database is a number, 0 or more"
	wrongColons   = "has colons in odd places; an IPv6 address is written [address]:port"
)

// withPort checks one host of a list. Its errors never repeat it: it may be a
// password.
func withPort(text, port string) (string, error) {
	host := strings.TrimSpace(text)
	switch {
	case host == "":
		return "", errors.New("is empty")
	case strings.Contains(host, "://"):
		return "", errors.New("has a scheme")
	case strings.Contains(host, "@"):
		return "", errors.New("has a user or password")
	case strings.ContainsAny(host, "/?# \t\r\n"):
		return "", errors.New("is not host:port")
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	} else if strings.Contains(host, ":") {
		return "", errors.New(wrongColons)
	}
	if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(text, "[]") {
		return "", errors.New(wrongColons)
	}
	switch {
	case host == "":
		return "", errors.New("has no name before its port")
	case !validPort(port):
		return "", errors.New(wrongPort)
	}
	return net.JoinHostPort(host, port), nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// database reads a number; without one it is 0.
func database(s string) (n int, ok bool) {
	if s == "" {
		return 0, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}
