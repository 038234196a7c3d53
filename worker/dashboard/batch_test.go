package dashboard_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/audit"
)

// makeBatch makes a batch of one task that waits.
func makeBatch(t *testing.T, store *batch.Store, id string) {
	t.Helper()
	ctx := t.Context()
	if _, _, err := store.Open(ctx, batch.Spec{ID: id}); err != nil {
		t.Fatal(err)
	}
	var digest batch.RollingDigest
	digest.AddTask(tasks.DeviceUnbind{UserID: "u", DeviceID: "d"})
	_, claimed := store.ClaimChunk(ctx, id, 0, []batch.Digest{digest.Digest()})
	marked := store.Mark(ctx, id, []batch.Mark{{Index: 0, State: batch.Queued}}, nil)
	if err := errors.Join(claimed, marked, store.CloseInput(ctx, id, 1)); err != nil {
		t.Fatal(err)
	}
}

// A process that was killed while it cancelled a batch has recorded that the batch is cancelled, and
// nothing more. The next dashboard finishes it.
func TestBatch_CancellingIsFinishedAfterAKill(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	store := batch.NewStore(server.Client())
	makeBatch(t, store, "b-1")
	if err := store.Cancel(t.Context(), batch.Cancellation{Batch: "b-1", Reason: "wrong file", By: "alice"}); err != nil {
		t.Fatal(err)
	}
	s := serveOver(t, "", server)
	redistest.Eventually(t, 30*time.Second, "the batch is cancelled", func() bool {
		b, err := store.Show(t.Context(), "b-1")
		return err == nil && b.Done && b.Cancelled == 1
	})
	redistest.Eventually(t, 20*time.Second, "the audit log says so", func() bool {
		all := s.changes()
		return len(all) == 1 && all[0].Action == "cancelling of a batch finished" && all[0].By == "alice" && all[0].Via == audit.Dashboard && all[0].Count == 1
	})
	if body := s.get("/batches/b-1").body; !strings.Contains(body, "Cancelled by <bdi>alice</bdi>") || strings.Contains(body, "failed") {
		t.Errorf("the page does not say who has cancelled the batch, or calls it failed:\n%s", body)
	}
	if a := s.do("alice", "POST", "/batches/b-1/cancel", url.Values{"why": {"x"}}); a.code != http.StatusBadRequest {
		t.Errorf("cancelling a batch that is done: status %d; want 400", a.code)
	}
}

func TestBatch_HoldAndRelease(t *testing.T) {
	t.Parallel()
	s := serve(t, "")
	store := batch.NewStore(s.redis.Client())
	makeBatch(t, store, "b-1")
	if a := s.do("alice", "POST", "/batches/b-1/hold", url.Values{"why": {"legal <hold>"}}); a.code != http.StatusSeeOther {
		t.Fatalf("%+v; want a redirect", a)
	}
	if body := s.get("/batches/b-1").body; !strings.Contains(body, "legal &lt;hold&gt;") || !strings.Contains(body, "By <bdi>alice</bdi>") {
		t.Errorf("the page does not say who holds the batch, and why:\n%s", body)
	}
	if a := s.do("alice", "POST", "/batches/b-1/release", url.Values{"why": {"done"}}); a.code != http.StatusSeeOther {
		t.Fatalf("%+v; want a redirect", a)
	}
	redistest.Eventually(t, 20*time.Second, "nobody holds it", func() bool {
		_, isHeld, err := store.HoldOf(t.Context(), "b-1")
		return err == nil && !isHeld
	})
	if a := s.do("alice", "POST", "/batches/none/hold", url.Values{"why": {"x"}}); a.code != http.StatusNotFound {
		t.Errorf("a batch that does not exist: status %d; want 404", a.code)
	}
}
