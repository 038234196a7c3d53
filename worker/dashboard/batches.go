package dashboard

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/dashboard/access"
)

// batchesPage lists batches.
type batchesPage struct {
	UserID  string
	Batches []batchRow
	More    bool
}

// batchRow is a batch, and how many receipts of the user it has that is searched for.
type batchRow struct {
	tasks.BatchStats
	OfUser int
	Late   bool
}

const shownBatches = 200

// batchList lists the latest batches, or those that have receipts of a user.
func (d *Dashboard) batchList(r *http.Request, _ access.User) (reply, error) {
	p := batchesPage{UserID: r.URL.Query().Get("user_id")}
	if id := r.URL.Query().Get("id"); id != "" {
		if err := tasks.ValidateBatchID(id); err != nil {
			return reply{}, badRequest("%v", err)
		}
		return reply{redirect: "/batches/" + id}, nil
	}
	var err error
	if p.UserID != "" {
		p.Batches, p.More, err = d.batchesOf(r.Context(), p.UserID)
	} else {
		p.Batches, p.More, err = d.latestBatches(r.Context())
	}
	if err != nil {
		return reply{}, err
	}
	return reply{page: "batches.html", title: "Batches", data: p, reload: listReload}, nil
}

func (d *Dashboard) latestBatches(ctx context.Context) (rows []batchRow, more bool, err error) {
	now := time.Now()
	for b, err := range d.batches.List(ctx) {
		if err != nil {
			return nil, false, err
		}
		if len(rows) == shownBatches {
			return rows, true, nil
		}
		rows = append(rows, batchRow{BatchStats: b, Late: b.IsLate(now)})
	}
	return rows, false, nil
}

// batchesOf returns the batches that have receipts of a user, in the order of the receipts.
func (d *Dashboard) batchesOf(ctx context.Context, userID string) (rows []batchRow, more bool, err error) {
	at := make(map[string]int)
	for receipt, err := range d.batches.OfUser(ctx, userID) {
		if err != nil {
			return nil, false, err
		}
		if i, ok := at[receipt.Batch]; ok {
			if i >= 0 {
				rows[i].OfUser++
			}
			continue
		}
		if len(rows) == shownBatches {
			return rows, true, nil
		}
		at[receipt.Batch] = -1 // it may be gone
		stats, err := d.batches.Show(ctx, receipt.Batch)
		if _, isGone := errors.AsType[*batch.NotFoundError](err); isGone {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		at[receipt.Batch] = len(rows)
		rows = append(rows, batchRow{BatchStats: stats, OfUser: 1, Late: stats.IsLate(time.Now())})
	}
	return rows, false, nil
}

// receipts sends the receipts of a batch, or of one user in it, as a file.
func (d *Dashboard) receipts(r *http.Request, _ access.User) (reply, error) {
	id, userID := r.PathValue("id"), r.URL.Query().Get("user_id")
	if _, err := d.batches.Show(r.Context(), id); err != nil {
		return reply{}, err
	}
	write, kind := writeJSONLines, "jsonl"
	switch format := r.URL.Query().Get("format"); format {
	case "", "jsonl":
	case "csv":
		write, kind = writeCSV, format
	default:
		return reply{}, badRequest("format: %q; want jsonl or csv", printable(format))
	}
	return reply{download: func(ctx context.Context, w http.ResponseWriter) error {
		w.Header().Set("Content-Type", map[string]string{"jsonl": "application/jsonl", "csv": "text/csv"}[kind]+"; charset=utf-8")
		w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", "receipts-"+id+"."+kind))
		return write(w, d.batches.Receipts(ctx, id, batch.ReceiptOptions{UserID: userID}))
	}}, nil
}

func writeJSONLines(w http.ResponseWriter, receipts iter.Seq2[tasks.Receipt, error]) error {
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	for r, err := range receipts {
		if err == nil {
			err = lines.Encode(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// receiptColumns are those of the CSV file.
var receiptColumns = []string{"batch", "index", "kind", "user_id", "target", "outcome", "reason", "attempts", "at"}

func writeCSV(w http.ResponseWriter, receipts iter.Seq2[tasks.Receipt, error]) error {
	table := csv.NewWriter(w)
	if err := table.Write(receiptColumns); err != nil {
		return err
	}
	for r, err := range receipts {
		if err == nil {
			err = table.Write([]string{
				r.Batch, strconv.FormatInt(r.Index, 10), string(r.Kind), inCell(r.UserID), inCell(r.Target),
				string(r.Outcome), inCell(string(r.Reason)), strconv.Itoa(r.Attempts), r.At.Format(time.RFC3339),
			})
		}
		if err != nil {
			return err
		}
	}
	table.Flush()
	return table.Error()
}

// inCell keeps a spreadsheet from taking a text for a formula.
func inCell(text string) string {
	if text != "" && (text[0] == '=' || text[0] == '+' || text[0] == '-' || text[0] == '@' || text[0] == '\t' || text[0] == '\r') {
		return "'" + text
	}
	return text
}
