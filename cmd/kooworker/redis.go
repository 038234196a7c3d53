package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
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
		opt, err := redis.ParseURL(f.RedisURL)
		if err != nil {
			return nil, redisUsage(err)
		}
		opt.ContextTimeoutEnabled, opt.PoolSize, opt.DialerRetries = true, poolSize, dialTries
		return redis.NewClient(opt), nil
	case "redis-socket":
		return f.socket(poolSize)
	case "redis-sentinel":
		return f.sentinel(poolSize)
	default:
		return nil, redisUsage(errors.New("unknown scheme"))
	}
}

// redisUsage explains a URL that was refused without repeating it: it may hold
// a password.
func redisUsage(err error) error {
	if _, ok := errors.AsType[*url.Error](err); ok {
		err = errors.New("not a URL") // its own words may quote parts of it
	}
	return usagef("--redis-url: %w; want redis://[user:password@]host[:port][/db], rediss://…, redis-socket:///path[?db=n] or redis-sentinel://host[:port][,host…][/db]?master=name", err)
}

func (f redisFlags) socket(poolSize int) (redis.UniversalClient, error) {
	u, err := url.Parse(f.RedisURL)
	if err != nil {
		return nil, redisUsage(err)
	}
	if u.Host != "" || u.Path == "" {
		return nil, redisUsage(errors.New("a socket needs an absolute path"))
	}
	db, err := database(u.Query().Get("db"))
	if err != nil {
		return nil, redisUsage(err)
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
	u, err := url.Parse("redis-sentinel://" + credentials + "sentinel" + tail)
	if err != nil {
		return nil, redisUsage(err)
	}
	var addrs []string
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(host, defaultSentinelPort)
		if err != nil {
			return nil, redisUsage(err)
		}
		addrs = append(addrs, addr)
	}
	master := u.Query().Get("master")
	if master == "" {
		return nil, redisUsage(errors.New("a sentinel needs ?master=name"))
	}
	db, err := database(strings.TrimPrefix(u.Path, "/"))
	if err != nil {
		return nil, redisUsage(err)
	}
	password, _ := u.User.Password()
	return redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: master, SentinelAddrs: addrs, DB: db, Username: u.User.Username(), Password: password,
		SentinelPassword:      u.Query().Get("sentinel_password"),
		ContextTimeoutEnabled: true, PoolSize: poolSize, DialerRetries: dialTries,
	}), nil
}

func (f redisFlags) cluster(poolSize int) (redis.UniversalClient, error) {
	opt := &redis.ClusterOptions{ContextTimeoutEnabled: true, PoolSize: poolSize, DialerRetries: dialTries}
	for _, node := range f.RedisCluster {
		addr, err := withPort(node, defaultRedisPort)
		if err != nil {
			return nil, usagef("--redis-cluster: %w", err)
		}
		opt.Addrs = append(opt.Addrs, addr)
	}
	base, err := redis.ParseURL(f.RedisURL)
	if err != nil {
		return nil, redisUsage(err)
	}
	if base.DB != 0 {
		return nil, usagef("--redis-cluster: a cluster has database 0 only, and --redis-url names %d", base.DB)
	}
	opt.Username, opt.Password = base.Username, base.Password
	if base.TLSConfig != nil {
		opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return redis.NewClusterClient(opt), nil
}

func withPort(host, port string) (string, error) {
	host = strings.TrimSpace(host)
	if host == "" {
		return "", errors.New("a host is empty; want host:port, separated by commas")
	}
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host, nil
	}
	if strings.Contains(strings.Trim(host, "[]"), ":") && !strings.HasPrefix(host, "[") {
		return "", fmt.Errorf("host %q has several colons; want [address]:port for IPv6", host)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}

func database(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, errors.New("the database is not a number")
	}
	return n, nil
}
