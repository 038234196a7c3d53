package history

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// A receipt is stored as text: its fields, separated by tabs. The first one is the time in
// ms, which Redis adds, and the last one is the device as JSON, or empty. No field contains
// a tab.
const numFields = 9

// mostDevice is the length up to which a device is kept. KooDrive lets people name their
// devices, and says of no limit.
const mostDevice = 2000

// encode writes a receipt without its time.
func encode(r tasks.Receipt) (string, error) {
	device := ""
	if r.Device != nil {
		text, err := json.Marshal(r.Device)
		if err != nil {
			return "", fmt.Errorf("history: encode the device: %w", err)
		}
		if len(text) <= mostDevice {
			device = string(text)
		}
	}
	fields := []string{
		"", string(r.Kind), r.UserID, r.Target, string(r.Outcome), string(r.Reason), strconv.Itoa(r.Attempts), string(r.Source), device,
	}
	text := strings.Join(fields, "\t")
	if strings.Count(text, "\t") != numFields-1 {
		return "", fmt.Errorf("history: a field of the receipt %q contains a tab", text)
	}
	return text, nil
}

func decode(text string) (r tasks.Receipt, err error) {
	f := strings.SplitN(text, "\t", numFields)
	if len(f) != numFields {
		return r, fmt.Errorf("history: the receipt %.100q has %d fields; want %d", text, len(f), numFields)
	}
	at, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return r, fmt.Errorf("history: time of a receipt: %w", err)
	}
	r = tasks.Receipt{
		At: time.UnixMilli(at).UTC(), Kind: tasks.Kind(f[1]), UserID: f[2], Target: f[3], Outcome: tasks.Outcome(f[4]), Reason: tasks.Reason(f[5]),
		Source: tasks.ReceiptSource(f[7]),
	}
	if r.Attempts, err = strconv.Atoi(f[6]); err != nil {
		return r, fmt.Errorf("history: attempts of a receipt: %w", err)
	}
	if f[8] != "" {
		r.Device = &tasks.Device{}
		if err := json.Unmarshal([]byte(f[8]), r.Device); err != nil {
			return r, fmt.Errorf("history: device of a receipt: %w", err)
		}
	}
	return r, nil
}
