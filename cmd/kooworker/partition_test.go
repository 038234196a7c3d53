//go:build chaos && linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/kooworker/kooworker/internal/redistest"
)

// link is the network between one worker and Redis.
type link struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
}

func newLink(t *testing.T, upstream string) *link {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", upstream)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	return &link{t: t, proxy: proxy}
}

func (l *link) url() string { return "redis://" + l.proxy.Listen + "/0" }

// cut drops everything in these directions (upstream, downstream), and keeps the
// connections: neither side learns of it.
func (l *link) cut(directions ...string) {
	l.t.Helper()
	for _, d := range directions {
		toxic := `{"name":"cut-` + d + `","type":"timeout","stream":"` + d + `","attributes":{"timeout":0}}`
		if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *link) heal() { l.proxy.Toxics.ResetToxics(l.t.Context()) }

// Workers lose their Redis one after the other, both ways and one way only, for
// shorter and for longer than a lease, and then both at once.
func TestChaos_Partition(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	api := newFakeAPI(t, 200*time.Millisecond)
	p := newProducer(t, rdb)
	var links []*link
	for range 2 {
		l := newLink(t, server.Addr())
		links = append(links, l)
		worker := startProcess(t, []string{"KOODRIVE_TOKEN=t0ken"}, "worker", "--redis-url", l.url(), "--koodrive-url", api.URL, "--concurrency", "16")
		redistest.Eventually(t, 20*time.Second, "the worker runs", func() bool { return strings.Contains(worker.log(), "worker is running") })
	}
	stop := p.stream(t.Context(), 60)
	letTimePass(5 * time.Second)
	for _, cut := range []struct {
		links      []*link
		directions []string
		length     time.Duration
	}{
		{links[:1], []string{"upstream", "downstream"}, 10 * time.Second},
		{links[:1], []string{"downstream"}, 45 * time.Second}, // what it writes arrives, and the answers do not
		{links[1:], []string{"upstream", "downstream"}, 45 * time.Second},
		{links, []string{"upstream", "downstream"}, 20 * time.Second},
	} {
		for _, l := range cut.links {
			l.cut(cut.directions...)
		}
		letTimePass(cut.length)
		for _, l := range cut.links {
			l.heal()
		}
		letTimePass(10 * time.Second)
	}
	stop()
	charged := chargedAttempts(t, rdb)
	a := awaitOutcomes(t, rdb, p, api, 3*time.Minute)
	if a.lost != 0 || a.dead != 0 || a.done != a.acknowledged || charged != 0 {
		t.Errorf("%+v, %d attempts charged; want all done, none charged", a, charged)
	}
}
