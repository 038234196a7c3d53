package audit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/worker/audit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func TestLog_PagesAreTheLatestFirst(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	log := audit.New(server.Client(), zap.NewNop())
	began := time.Now().Add(-time.Second)
	var want []audit.Entry
	for i := range 25 {
		e := audit.Entry{By: "alice", Via: audit.Dashboard, Action: "queue paused", Subject: fmt.Sprint("queue ", i), Count: int64(i), Reason: "INC-1"}
		log.Record(t.Context(), e)
		want = append([]audit.Entry{e}, want...)
	}
	var got []audit.Entry
	position, pages := "", 0
	for {
		page, err := log.List(t.Context(), position, 10)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Entries...)
		pages++
		if position = page.Next; position == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(audit.Entry{}, "At")); diff != "" || pages != 3 {
		t.Errorf("%d pages, want 3; entries (-want +got):\n%s", pages, diff)
	}
	for _, e := range got {
		if e.At.Before(began) || e.At.After(time.Now().Add(time.Second)) {
			t.Errorf("an entry is of %s; want the time at which it was recorded", e.At)
		}
	}
	if _, err := log.List(t.Context(), "yesterday", 10); err == nil {
		t.Error("a position that no page has named is accepted; want an error")
	}
}

func TestLog_IsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	const over = 3000
	_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range audit.Most + over {
			p.XAdd(t.Context(), &redis.XAddArgs{Stream: "kooworker:audit", ID: fmt.Sprintf("%d-1", i+1), Values: []any{"e", `{"action":"old"}`}})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	log := audit.New(rdb, zap.NewNop())
	for range audit.Most/500 + 1 { // the old ones are of 1970
		log.Record(t.Context(), audit.Entry{Action: "new"})
	}
	page, err := log.List(t.Context(), "", audit.Most)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(page.Entries); n != audit.Most/500+1 || page.Next != "" {
		t.Errorf("%d entries are left; want the %d that are younger than %s", n, audit.Most/500+1, audit.Keep)
	}
	if ttl := rdb.TTL(t.Context(), "kooworker:audit").Val(); ttl <= 0 || ttl > audit.Keep {
		t.Errorf("the entries expire in %s; want at most %s", ttl, audit.Keep)
	}
}

func TestLog_HostileText(t *testing.T) {
	t.Parallel()
	core, lines := observer.New(zap.WarnLevel)
	server := redistest.Start(t)
	log := audit.New(server.Client(), zap.New(core))
	log.Record(t.Context(), audit.Entry{By: "eve\nmallory", Action: "paused", Subject: "a\x00b\xff", Reason: strings.Repeat("x", 10_000)})
	page, err := log.List(t.Context(), "", 10)
	if err != nil || len(page.Entries) != 1 {
		t.Fatalf("%d entries, %v; want 1", len(page.Entries), err)
	}
	e := page.Entries[0]
	if strings.ContainsAny(e.By+e.Subject, "\n\x00") || !utf8.ValidString(e.Subject) || len(e.Reason) > 1100 {
		t.Errorf("by %q, subject %q, %d bytes of reason; want lines of bounded length", e.By, e.Subject, len(e.Reason))
	}
	if lines.Len() != 1 || lines.All()[0].LoggerName != "audit" || lines.All()[0].ContextMap()["by"] != e.By {
		t.Errorf("the log has %+v; want one line of audit", lines.All())
	}
}

func TestLog_RedisIsAway(t *testing.T) {
	t.Parallel()
	core, lines := observer.New(zap.WarnLevel)
	server := redistest.Start(t)
	log := audit.New(server.Client(), zap.New(core))
	server.Kill()
	log.Record(t.Context(), audit.Entry{By: "alice", Action: "queue paused"})
	all := lines.All()
	if len(all) != 2 || all[0].Message != "queue paused" || all[1].Message != "Redis does not keep this entry" {
		t.Errorf("the log has %+v; want the change, and that Redis does not keep it", all)
	}
}
