package main

import (
	"context"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// While Redis is away, those who wait for a batch say so, and for how long, and no speed. They go
// on when it is back.
func TestBatch_WaitRedisAway(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		leave func(context.Context, *redistest.Server, *redis.Client) (comeBack func(), err error)
		why   string
		hint  string
	}{
		"frozen": {func(_ context.Context, s *redistest.Server, _ *redis.Client) (func(), error) {
			s.Freeze()
			return s.Thaw, nil
		}, "does not answer: no answer within 2s", "check --redis-url"},
		"killed": {func(_ context.Context, s *redistest.Server, _ *redis.Client) (func(), error) {
			s.Kill()
			return s.Restart, nil
		}, "does not answer: dial tcp", "check --redis-url"},
		"another password": {func(ctx context.Context, _ *redistest.Server, admin *redis.Client) (func(), error) {
			err := admin.ConfigSet(ctx, "requirepass", "other").Err()
			if err == nil {
				err = admin.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err()
			}
			return func() { admin.ConfigSet(ctx, "requirepass", "pw") }, err
		}, "refuses to serve: WRONGPASS", "Redis refuses the user or password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
			admin := redis.NewClient(&redis.Options{Addr: server.Addr(), PoolSize: 1, MaxRetries: -1})
			t.Cleanup(func() { _ = admin.Close() })
			where := server.URL()
			if name == "another password" {
				if err := admin.ConfigSet(t.Context(), "requirepass", "pw").Err(); err != nil {
					t.Fatal(err)
				}
				where = (&url.URL{Scheme: "redis", User: url.UserPassword("", "pw"), Host: server.Addr(), Path: "/0"}).String()
			}
			if r := kooworker(t, unbindsCSV(20), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", where); r.code != exitDone {
				t.Fatalf("%+v; want exit 0", r)
			}
			all := map[string]*process{}
			for _, command := range []string{"watch", "wait"} {
				all[command] = startProcess(t, nil, "batch", command, "b-1", "--redis-url", where)
			}
			say := func(text string) {
				t.Helper()
				for command, p := range all {
					redistest.Eventually(t, 30*time.Second, command+" says "+text, func() bool { return strings.Contains(p.log(), text) })
				}
			}
			say("no worker runs")
			comeBack, err := tc.leave(t.Context(), server, admin)
			if err != nil {
				t.Fatal(err)
			}
			say("batch b-1: Redis " + tc.why)
			say("hint: " + tc.hint)
			redistest.Eventually(t, 30*time.Second, "the progress says so, too", func() bool {
				return regexp.MustCompile(`(?m)^0 of 20 tasks, Redis [a-z ]+: .*, since \d{4}-`).MatchString(all["watch"].log())
			})
			halted := strings.Count(all["watch"].log(), "/s")
			letTimePass(6 * time.Second)
			if log := all["watch"].log(); strings.Count(log, "/s") > halted {
				t.Errorf("watch shows a speed while Redis is away:\n%s", log)
			}
			comeBack()
			say("batch b-1: Redis answers again")
			if r := kooworker(t, "", "batch", "cancel", "b-1", "--redis-url", where); r.code != exitDone {
				t.Fatalf("%+v; want exit 0", r)
			}
			for command, p := range all {
				_ = p.cmd.Wait()
				if code := p.cmd.ProcessState.ExitCode(); code != exitPartial { // cancelled tasks are not done
					t.Errorf("%s: exit %d; want 3:\n%s", command, code, p.log())
				}
			}
		})
	}
}

// Who gives up says why, and what to do.
func TestBatch_WaitGivesUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if r := kooworker(t, unbindsCSV(20), "enqueue", "unbind", "--file", "-", "--batch", "b-1", "--redis-url", server.URL()); r.code != exitDone {
		t.Fatalf("%+v; want exit 0", r)
	}
	patient := startProcess(t, nil, "batch", "wait", "b-1", "--redis-url", server.URL())
	timed := startProcess(t, nil, "batch", "wait", "b-1", "--timeout", "20s", "--redis-url", server.URL())
	for _, p := range []*process{patient, timed} {
		redistest.Eventually(t, 15*time.Second, "it waits", func() bool { return strings.Contains(p.log(), "no worker runs") })
	}
	server.Freeze()
	defer server.Thaw()
	for _, tc := range []struct {
		p     *process
		code  int
		wants []string
	}{
		{timed, exitTimeout, []string{"kooworker: batch b-1 is not done after 20s", "hint: Redis does not answer: no answer within 2s, since 2", "batch watch b-1 continues waiting"}},
		{patient, exitFailed, []string{"kooworker: stopped waiting for batch b-1: Redis does not answer: no answer within 2s, since 2", "hint: check --redis-url", "batch watch b-1 continues waiting"}},
	} {
		_ = tc.p.cmd.Wait()
		if code := tc.p.cmd.ProcessState.ExitCode(); code != tc.code {
			t.Errorf("exit %d; want %d", code, tc.code)
		}
		for _, want := range tc.wants {
			if log := tc.p.log(); !strings.Contains(log, want) {
				t.Errorf("%s\nwant %q", log, want)
			}
		}
	}
}
