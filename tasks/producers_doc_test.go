package tasks

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docTable returns the rows of the table of a Markdown file that has this header.
func docTable(t *testing.T, text, header string) (rows [][]string) {
	t.Helper()
	_, table, found := strings.Cut(text, "| "+header+" |\n")
	if !found {
		t.Fatalf("there is no table with the header %s", header)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for _, line := range strings.Split(table, "\n")[1:] {
		rows = append(rows, strings.Split(strings.Trim(line, "| "), " | "))
	}
	return rows
}

// docs/producers.md is what people write producers by.
func TestProducersDoc(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../docs/producers.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(file)
	payloads := map[Kind]map[string]any{}
	for _, example := range regexp.MustCompile(`(?m)^    ([a-z]+:[a-z]+) +(\{.*\})$`).FindAllStringSubmatch(text, -1) {
		kind := Kind(example[1])
		if err := json.Unmarshal([]byte(example[2]), new(any)); err != nil {
			t.Fatalf("%s: %v", example[0], err)
		}
		task, in, err := Decode(kind, []byte(example[2]))
		if err != nil || in.EnqueuedAt.IsZero() {
			t.Fatalf("%s: %+v, %v; want a task with the time of the order", example[0], in, err)
		}
		var members map[string]any
		_ = json.Unmarshal([]byte(example[2]), &members) // as above
		payloads[kind] = members
		want := []string{"`" + string(kind) + "`", "`" + task.Queue() + "`", ""}
		for _, row := range docTable(t, text, "kind | queue | task ID") {
			if row[0] == want[0] {
				id := strings.NewReplacer("`", "", "<user_id>", task.User(), "<device_id>", task.Target(), "<lock_id>", task.Target()).Replace(row[2])
				if row[1] != want[1] || id != Identity(task) {
					t.Errorf("%v: the doc has the queue %s and the ID %s; want %s and %s", kind, row[1], id, want[1], Identity(task))
				}
				want = nil
				break
			}
		}
		if want != nil {
			t.Errorf("the table of queues has no row for %s", kind)
		}
	}
	for queue := range queueWeights { // what producers enqueue has lanes
		if hasLanes(queue) && !strings.Contains(text, "| `"+queue+"` |") {
			t.Errorf("the table of queues has no row for %s", queue)
		}
	}
	if rows := docTable(t, text, "kind | queue | task ID"); len(rows) != len(payloads) {
		t.Errorf("there are examples of %d payloads; want %d", len(payloads), len(rows))
	}
	accepts := map[string]func(id string) error{
		"user_id":   func(id string) error { return UserOffboard{UserID: id}.Validate() },
		"device_id": func(id string) error { return DeviceUnbind{UserID: "u", DeviceID: id}.Validate() },
		"lock_id":   func(id string) error { return LockRelease{UserID: "u", LockID: id}.Validate() },
	}
	pattern := regexp.MustCompile("`(\\^.*\\$)`")
	documented := map[Kind][]string{}
	for _, row := range docTable(t, text, "member | of kind | required | type | value") {
		member := strings.Trim(row[0], "`")
		if accept := accepts[member]; accept != nil {
			id := regexp.MustCompile(pattern.FindStringSubmatch(row[4])[1])
			for _, s := range []string{"", "a", "A-9", "a_b", "a b", "a@1", "a@123456789", "a:~!", "é", "a\n", strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("x", 128), strings.Repeat("x", 129)} {
				if err := accept(s); (err == nil) != id.MatchString(s) {
					t.Errorf("%s %q: %v; the doc has the pattern %s", member, s, err, id)
				}
			}
		}
		for kind, payload := range payloads {
			if row[1] != "all" && row[1] != "`"+string(kind)+"`" {
				continue
			}
			documented[kind] = append(documented[kind], member)
			if required := isRequired(t, kind, payload, member); required != (row[2] == "yes") {
				t.Errorf("%s of %s is required: %s; the decoder says %t", member, kind, row[2], required)
			}
		}
	}
	for kind := range payloads {
		want := slices.Sorted(slices.Values(memberNames[kind]))
		if got := slices.Sorted(slices.Values(documented[kind])); !slices.Equal(got, want) {
			t.Errorf("the members of %s are %v; want %v", kind, got, want)
		}
	}
	for _, queue := range regexp.MustCompile("`((?:unbind|release|offboard)(?:-[a-z]+)?)`").FindAllStringSubmatch(text, -1) {
		if QueueWeights()[queue[1]] == 0 {
			t.Errorf("the queue %s is none that workers take tasks from", queue[1])
		}
	}
	for _, want := range []string{"| `retry` | 5 | int32 | `1000` |", "| `timeout` | 8 | int64 | `1800` |", "at most 4,096 bytes"} {
		if !strings.Contains(text, want) {
			t.Errorf("the doc does not say %q", want)
		}
	}
	if MaxRetry != 1000 || Timeout.Seconds() != 1800 || MaxPayload != 4096 {
		t.Error("the doc has the limits of before")
	}
}

// isRequired reports whether a payload without this member is refused.
func isRequired(t *testing.T, kind Kind, payload map[string]any, without string) bool {
	t.Helper()
	less := map[string]any{}
	for name, value := range payload {
		if name != without {
			less[name] = value
		}
	}
	text, err := json.Marshal(less)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Decode(kind, text)
	return err != nil
}
