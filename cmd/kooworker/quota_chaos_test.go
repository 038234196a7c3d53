//go:build chaos && linux

package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// Worker processes use a quota that they are not told of. Package gate has a table of
// many more quotas, in virtual time.
func TestChaos_Quota(t *testing.T) {
	for _, row := range []struct {
		quota   string
		share   float64 // of the quota, at least
		refused float64 // share of the calls, at most
	}{
		{"bucket:200/s,burst=20", 0.97, 0.01},
		{"fixed:200/s", 0.95, 0.02},
		{"", 0, 0}, // KooDrive never refuses
	} {
		for _, workers := range []int{1, 3, 20} {
			if row.quota != "" || workers < 20 {
				t.Run(fmt.Sprintf("%s/%d workers", row.quota, workers), func(t *testing.T) { testQuota(t, row.quota, workers, row.share, row.refused) })
			}
		}
	}
}

func testQuota(t *testing.T, quota string, workers int, share, refused float64) {
	t.Helper()
	const warmUp, measured, perSecond = 30 * time.Second, 30 * time.Second, 200
	cfg := simulator.Config{Auth: simulator.Auth{Mode: simulator.AuthToken, Token: "t0ken"}}
	n := 4 * perSecond * int((warmUp + measured).Seconds())
	if quota == "" {
		// A quota that is never reached counts the calls.
		quota = "bucket:1000000/s,burst=1000000"
		n = 4000 * int((warmUp + measured).Seconds())
	}
	q, err := simulator.ParseQuota(quota)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Quotas = append(cfg.Quotas, q)
	sim, url := serveSimulator(t, cfg)
	server := redistest.Start(t)
	if r := kooworker(t, unbindsCSV(n), "enqueue", "unbind", "--file", "-", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	for range workers {
		startProcess(t, []string{"KOODRIVE_TOKEN=t0ken"}, "worker", "--redis-url", server.URL(), "--koodrive-url", url, "--concurrency", "64")
	}
	counts := func() (granted, refused float64) {
		for _, q := range sim.Stats().Quotas { // there is one
			granted, refused = float64(q.Granted), float64(q.Refused)
		}
		return granted, refused
	}
	redistest.Eventually(t, time.Minute, "calls are made", func() bool { granted, _ := counts(); return granted > 0 })
	letTimePass(warmUp)
	g0, r0 := counts()
	letTimePass(measured)
	g1, r1 := counts()
	granted, bad := (g1-g0)/measured.Seconds(), (r1-r0)/max(g1-g0+r1-r0, 1)
	t.Logf("%.1f calls a second passed, %.2f %% were refused; in the first %s: %.0f passed, %.0f were refused", granted, 100*bad, warmUp, g0, r0)
	if granted < share*perSecond || bad > refused {
		t.Errorf("%.1f calls a second, %.2f %% refused; want at least %.0f, and at most %.1f %%", granted, 100*bad, share*perSecond, 100*refused)
	}
	if charged := chargedAttempts(t, server.Client()); charged != 0 {
		t.Errorf("%d attempts were charged; want none", charged)
	}
}
