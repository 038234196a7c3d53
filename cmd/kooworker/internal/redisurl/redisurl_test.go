package redisurl

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

func TestClient_URLs(t *testing.T) {
	t.Parallel()
	type want struct {
		Network, Addr, User, Password string
		DB                            int
		TLS                           bool
	}
	for url, w := range map[string]want{
		"redis://127.0.0.1:6379/0":            {"tcp", "127.0.0.1:6379", "", "", 0, false},
		"redis://example.com":                 {"tcp", "example.com:6379", "", "", 0, false},
		"redis://example.com/":                {"tcp", "example.com:6379", "", "", 0, false},
		"redis://[::1]:7/1?dial_timeout=3s":   {"tcp", "[::1]:7", "", "", 1, false},
		"redis://:7?db=2":                     {"tcp", "localhost:7", "", "", 2, false},
		"redis://me:pa%40ss@example.com:1/7":  {"tcp", "example.com:1", "me", "pa@ss", 7, false},
		"rediss://:pw@example.com:6380":       {"tcp", "example.com:6380", "", "pw", 0, true},
		"redis-socket:///run/redis.sock?db=3": {"unix", "/run/redis.sock", "", "", 3, false},
		"redis-socket://:pw@/run/redis.sock":  {"unix", "/run/redis.sock", "", "pw", 0, false},
	} {
		rdb, err := Address{URL: url}.Client(7)
		if err != nil {
			t.Errorf("%s: %v; want a client", url, err)
			continue
		}
		opt := rdb.(*redis.Client).Options()
		got := want{opt.Network, opt.Addr, opt.Username, opt.Password, opt.DB, opt.TLSConfig != nil}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
		if !opt.ContextTimeoutEnabled || opt.PoolSize != 7 {
			t.Errorf("%s: honours contexts %t, pool of %d; want true, and 7", url, opt.ContextTimeoutEnabled, opt.PoolSize)
		}
		_ = rdb.Close()
	}
}

func TestClient_SentinelAndCluster(t *testing.T) {
	t.Parallel()
	for _, a := range []Address{
		{URL: "redis-sentinel://s1,s2:26380,[::1]:1/2?master=main"},
		{URL: "redis-sentinel://:pw@s1:26379?master=main&sentinel_password=x"},
		{URL: "redis-sentinel://:p%40%2F%23%3Aw@s1:65535,[fe80::1%eth0],[::1]:1/0?master=main"},
		{URL: "redis://x", Cluster: []string{"[::1]:7", " [::1]", "a.b-c_d:65535"}},
		{URL: "redis://127.0.0.1:6379/0", Cluster: []string{"a:1", "b"}},
		{URL: "rediss://me:pw@x", Cluster: []string{"a:1"}},
	} {
		rdb, err := a.Client(3)
		if err != nil {
			t.Errorf("%+v: %v; want a client", a, err)
			continue
		}
		cluster, ok := rdb.(*redis.ClusterClient)
		if wanted := len(a.Cluster) > 0; ok != wanted {
			t.Errorf("%+v: a cluster client: %t; want %t", a, ok, wanted)
		}
		if ok && (!cluster.Options().ContextTimeoutEnabled || len(cluster.Options().Addrs) == 0) {
			t.Errorf("%+v: %+v; want it to honour contexts and to have nodes", a, cluster.Options())
		}
		// go-redis asks every 60 s by default, and a failover would go unnoticed for
		// as long: commands to the dead primary fail until then.
		if ok && cluster.Options().ClusterStateReloadInterval != 2*time.Second {
			t.Errorf("%+v: asks every %s who the primaries are; want every 2s", a, cluster.Options().ClusterStateReloadInterval)
		}
		_ = rdb.Close()
	}
}

// The credentials of sentinels and of Redis travel over the same networks: either
// both connections are encrypted, or the URL does not ask for it.
func TestClient_SentinelWithTLS(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"redis-sentinel://h?master=m": false, "redis-sentinel://h?master=m&tls=false": false, "redis-sentinel://h?master=m&tls=true": true,
	} {
		opt, err := Address{URL: url}.sentinel()
		if err != nil || (opt.TLSConfig != nil) != want {
			t.Errorf("%s: %+v, %v; want TLS: %t", url, opt, err, want)
		}
	}
	// A sentinel that speaks TLS only is asked over TLS.
	hello := make(chan byte, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		_ = listener.Close() // further attempts are refused at once
		if err != nil {
			return
		}
		var first [1]byte
		_, _ = conn.Read(first[:])
		hello <- first[0]
		_ = conn.Close()
	}()
	rdb, err := Address{URL: "redis-sentinel://:pw@" + listener.Addr().String() + "?master=m&tls=true&sentinel_password=pw"}.Client(1)
	if err != nil {
		t.Fatal(err)
	}
	defer rdb.Close() //nolint:errcheck // the end of a test
	if err := rdb.Ping(t.Context()).Err(); err == nil {
		t.Error("PING succeeded; want an error of the handshake")
	}
	const handshake = 22 // the type of a TLS record
	if got := <-hello; got != handshake {
		t.Errorf("the sentinel got %q first; want a TLS handshake", got)
	}
}

func TestClient_ErrorsRepeatNoPartOfTheAddress(t *testing.T) {
	t.Parallel()
	const right = "percent-encode special characters in the password"
	for _, a := range []Address{
		{URL: "redis://:s3cret@host:port:2/x"},
		{URL: "redis://:s3cret@h/%zz"},
		{URL: "redis://:s3 cret%@h/0"},
		{URL: "http://:s3cret@h/0"},
		{URL: "s3cret"},
		{URL: ""},
		{URL: "redis://:s3cret@h/one"},
		{URL: "redis://:s3cret@h/-7"},
		{URL: "redis://:s3cret@h/1/2"},
		{URL: "redis://:s3cret@h?s3cret=1"},
		{URL: "redis://:s3cret@h?db=s3cret"},
		{URL: "redis://:s3cret@h?dial_timeout=s3cret"},
		// A special character in a password ends the password early.
		{URL: "redis://:12/s3cret@host:6379/0"},
		{URL: "redis://h/s3cret@x"},
		{URL: "redis://me:12/3@s3cret/0"},
		{URL: "redis://:12#s3cret@host:6379/0"},
		{URL: "redis://:12?s3cret@host:6379/0"},
		{URL: "redis://:12?s3;cret@host:6379/0"},
		{URL: "redis://:s3#cret@host:6379/0"},
		{URL: "redis://s3cret:0/0"},
		{URL: "redis://s3cret:65536/0"},
		{URL: "redis-socket://:s3cret@host/path?db=x"},
		{URL: "redis-socket://:s3cret@"},
		{URL: "redis-socket://:s3cret@/path?db=x"},
		{URL: "redis-socket://:12/s3cret@/path"},
		{URL: "redis-socket://:s3%cret@/path"},
		{URL: "redis-sentinel://:s3cret@h1,h2"},
		{URL: "redis-sentinel://:s3cret@h1,,h2?master=m"},
		{URL: "redis-sentinel://:s3cret@h1/x?master=m"},
		{URL: "redis-sentinel://:s3%cret@h1?master=m"},
		{URL: "redis-sentinel://:s3:cret:x,h?master=m"},
		{URL: "redis-sentinel://:s3cret,h?master=m"},
		{URL: "redis-sentinel://:12/s3cret@h?master=m"},
		{URL: "redis-sentinel://:12?s3cret@h&master=m"},
		{URL: "redis-sentinel://:12#s3cret@h?master=m"},
		{URL: "redis-sentinel://me:12/3@s3cret,h/0?master=m"},
		{URL: "redis-sentinel://s3cret:0?master=m"},
		{URL: "redis-sentinel://s3cret:70000,h?master=m"},
		{URL: "redis-sentinel://s3cret:?master=m"},
		{URL: "redis-sentinel://[s3cret]?master=m"},
		{URL: "redis-sentinel://::1?master=m"},
		// An option that is not known may be one that somebody relies on.
		{URL: "redis-sentinel://h?master=m&s3cret=1"},
		{URL: "redis-sentinel://h?master=m&db=2"},
		{URL: "redis-sentinel://h?master=m&sentinel_pasword=s3cret"},
		{URL: "redis-sentinel://h?master=m&tls=s3cret"},
		{URL: "redis-sentinel://h?master=m&tls="},
		{URL: "redis-socket:///path?s3cret=1"},
		{URL: "redis-socket:///path?tls=true"},
		{URL: "redis://h?tls=true"},
		{URL: "redis://h?skip_verify=true"},
	} {
		refuses(t, a, right)
	}
	for _, a := range []Address{
		{URL: "redis://:s3cret@h/3", Cluster: []string{"a"}},
		{URL: "redis://:s3cret@h?dial_timeout=3s", Cluster: []string{"a"}},
		{URL: "redis://:s3cret@h", Cluster: []string{""}},
		{URL: "redis://h", Cluster: []string{"a", "redis://:s3cret@host"}},
		{URL: "redis://h", Cluster: []string{"rediss://s3cret:6379"}},
		{URL: "redis://h", Cluster: []string{"redis://s3cret"}},
		{URL: "redis://h", Cluster: []string{":s3cret@host"}},
		{URL: "redis://h", Cluster: []string{":s3cret@host:6379"}},
		{URL: "redis://h", Cluster: []string{"me@s3cret"}},
		{URL: "redis://h", Cluster: []string{"s3cret/0"}},
		{URL: "redis://h", Cluster: []string{"h:s3cret"}},
		{URL: "redis://h", Cluster: []string{"s3cret:0"}},
		{URL: "redis://h", Cluster: []string{"s3cret:65536"}},
		{URL: "redis://h", Cluster: []string{"s3cret:-1"}},
		{URL: "redis://h", Cluster: []string{"s3cret:+1"}},
		{URL: "redis://h", Cluster: []string{"s3 cret"}},
	} {
		refuses(t, a, "--redis-cluster: ")
	}
	for _, url := range []string{"redis://:12/s3cret@host:6379/0", "redis-sentinel://:s3cret@h?master=m", "redis-socket:///s3cret", "redis://:s3cret@h:0"} {
		refuses(t, Address{URL: url, Cluster: []string{"a:1"}}, "--redis-url: ")
	}
}

// refuses checks that an address is refused, with an error that does not repeat it.
func refuses(t *testing.T, a Address, want string) {
	t.Helper()
	rdb, err := a.Client(1)
	if err == nil {
		_ = rdb.Close()
		t.Errorf("%+v: accepted; want an error with %q", a, want)
		return
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("%+v: %v; want an error with %q", a, err, want)
	}
	for _, part := range []string{"s3", "cret", "12", "7"} {
		if strings.Contains(err.Error(), part) {
			t.Errorf("%+v: repeats %q: %v; want nothing of the address", a, part, err)
		}
	}
}
