// Package redisurl makes Redis clients from what an operator writes: a URL, or the
// nodes of a cluster. It owns the schemes (plain, TLS, Unix socket, Sentinel) and
// checks all parts before anything connects.
//
// All its errors are wrong usage. They name the flag, and say what is right. They
// never repeat a part of the URL, nor an error text that may repeat one: a special
// character in a password turns any part of the URL into a part of the password.
//
// The subcommands call it, through the flags that all of them share. It imports no
// other package of this module.
package redisurl

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Address says where Redis is.
type Address struct {
	// URL is redis://…, rediss://…, redis-socket://… or redis-sentinel://….
	URL string
	// Cluster lists nodes of a cluster, host:port each; empty: no cluster. Of URL
	// only the scheme, the user and the password count then.
	Cluster []string
	// PasswordFile names a file with the password; empty: the password of URL, if any.
	PasswordFile string
}

// dialAttempts is 1, because go-redis repeats commands anyway, and the error of a
// refused connection should arrive before a deadline hides it.
const dialAttempts = 1

// Client returns a client that is not connected yet. It honours the deadlines of
// contexts, which go-redis does not do by default: on a Redis that hangs, a
// deadline of 200 ms would last for seconds.
func (a Address) Client(poolSize int) (redis.UniversalClient, error) {
	var opt *redis.UniversalOptions
	if err := a.checkPasswordFile(); err != nil {
		return nil, err
	}
	var err error
	scheme, _, _ := strings.Cut(a.URL, "://")
	switch {
	case len(a.Cluster) > 0:
		opt, err = a.cluster()
	case scheme == "redis-sentinel":
		opt, err = a.sentinel()
	case scheme == "redis" || scheme == "rediss" || scheme == "redis-socket":
		single, err := a.single() // these options hold more than the universal ones
		if err != nil {
			return nil, err
		}
		single.ContextTimeoutEnabled, single.PoolSize, single.DialerRetries = true, poolSize, dialAttempts
		single.CredentialsProviderContext = a.credentials(single.Username)
		return redis.NewClient(single), nil
	default:
		err = urlError("the scheme is unknown")
	}
	if err != nil {
		return nil, err
	}
	opt.ContextTimeoutEnabled, opt.PoolSize, opt.DialerRetries = true, poolSize, dialAttempts
	opt.CredentialsProviderContext = a.credentials(opt.Username)
	if opt.IsClusterMode {
		cluster := opt.Cluster()
		cluster.ClusterStateReloadInterval = 2 * time.Second // with the 60 s of go-redis, a failover is noticed a minute late
		return redis.NewClusterClient(cluster), nil
	}
	return redis.NewUniversalClient(opt), nil
}

// urlError says what is wrong with the URL, in a fixed sentence, and what is right.
func urlError(problem string) error {
	return fmt.Errorf("--redis-url: %s; want redis://[user:password@]host[:port][/db], rediss://…, redis-socket:///path[?db=n] or redis-sentinel://host[:port][,host…][/db]?master=name[&tls=true][&sentinel_password=…]; percent-encode special characters in the password", problem)
}

// parse also refuses what net/url would silently cut off.
func parse(text string) (*url.URL, url.Values, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, nil, urlError("it is not a URL")
	}
	if strings.Contains(text, "#") {
		return nil, nil, urlError("a Redis URL has no #")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, urlError("the part after the ? is malformed; want name=value, joined by &")
	}
	return u, query, nil
}

// single reads redis://, rediss:// and redis-socket://.
func (a Address) single() (*redis.Options, error) {
	u, _, err := parse(a.URL)
	if err != nil {
		return nil, err
	}
	socket := u.Scheme == "redis-socket"
	if socket && (u.Host != "" || u.Path == "") {
		return nil, urlError("a socket needs an absolute path")
	}
	if port := u.Port(); port != "" && !validPort(port) {
		return nil, urlError("the host " + wrongPort)
	}
	if _, ok := database(strings.Trim(u.Path, "/")); !ok && !socket {
		return nil, urlError(wrongDatabase)
	}
	opt, err := redis.ParseURL(strings.Replace(a.URL, "redis-socket:", "unix:", 1))
	if err != nil {
		return nil, urlError("the part after the ? has an option that go-redis does not know, or a wrong value")
	}
	if opt.DB < 0 { // from ?db=
		return nil, urlError(wrongDatabase)
	}
	return opt, nil
}

// sentinel reads redis-sentinel://. Such a URL may have several hosts, which
// net/url refuses; so the hosts are taken out before it is parsed.
func (a Address) sentinel() (*redis.UniversalOptions, error) {
	rest := strings.TrimPrefix(a.URL, "redis-sentinel://")
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	credentials, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		credentials, hosts = authority[:i+1], authority[i+1:]
	}
	u, query, err := parse("redis-sentinel://" + credentials + "sentinel" + tail)
	if err != nil {
		return nil, err
	}
	var addrs []string
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := withPort(host, "26379")
		if err != nil {
			return nil, urlError(fmt.Sprintf("host %d %v", len(addrs)+1, err))
		}
		addrs = append(addrs, addr)
	}
	for name := range query {
		if name != "master" && name != "sentinel_password" && name != "tls" {
			return nil, urlError("the part after the ? has an unknown option; sentinels have master, sentinel_password and tls")
		}
	}
	master := query.Get("master")
	if master == "" {
		return nil, urlError("a sentinel needs ?master=name")
	}
	db, ok := database(strings.TrimPrefix(u.Path, "/"))
	if !ok {
		return nil, urlError(wrongDatabase)
	}
	var encryption *tls.Config // of the connections to the sentinels and to Redis
	switch {
	case query.Get("tls") == "true":
		encryption = &tls.Config{MinVersion: tls.VersionTLS12}
	case query.Has("tls") && query.Get("tls") != "false":
		return nil, urlError("the option tls is true or false")
	}
	password, _ := u.User.Password()
	return &redis.UniversalOptions{
		MasterName: master, Addrs: addrs, DB: db, Username: u.User.Username(), Password: password,
		SentinelPassword: query.Get("sentinel_password"), TLSConfig: encryption,
	}, nil
}

// cluster reads the nodes, and takes user, password and TLS from the URL.
func (a Address) cluster() (*redis.UniversalOptions, error) {
	opt := &redis.UniversalOptions{IsClusterMode: true}
	for i, node := range a.Cluster {
		addr, err := withPort(node, "6379")
		if err != nil {
			return nil, fmt.Errorf("--redis-cluster: node %d %w; want host:port,host:port…, and user and password in --redis-url", i+1, err)
		}
		opt.Addrs = append(opt.Addrs, addr)
	}
	if !strings.HasPrefix(a.URL, "redis://") && !strings.HasPrefix(a.URL, "rediss://") {
		return nil, urlError("for a cluster the scheme is redis or rediss")
	}
	base, err := a.single()
	if err != nil {
		return nil, err
	}
	if base.DB != 0 {
		return nil, errors.New("--redis-cluster: a cluster has database 0 only, and --redis-url names another")
	}
	if strings.Contains(a.URL, "?") {
		return nil, errors.New("--redis-cluster: of --redis-url only the scheme, the user and the password count; want nothing after a ?")
	}
	opt.Username, opt.Password = base.Username, base.Password
	if base.TLSConfig != nil {
		opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return opt, nil
}

const (
	wrongPort     = "has a port that is not a number from 1 to 65535"
	wrongDatabase = "the database must be a number, 0 or more"
	wrongColons   = "has a colon in the wrong place; an IPv6 address is written [address]:port"
)

// withPort checks one host of a list and adds the port if it has none. Its errors
// never repeat the host: it may be a password.
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

// database reads the number of a database. The default is 0.
func database(s string) (n int, ok bool) {
	if s == "" {
		return 0, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}
