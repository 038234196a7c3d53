package demo

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/tasks"
)

// Not parallel: the process has one variable COLUMNS.
func TestReport_Table(t *testing.T) {
	r := Report{
		Enqueued: map[tasks.Kind]int{tasks.KindDeviceUnbind: 200, tasks.KindLockRelease: 40},
		Finished: map[Result]int{
			{tasks.KindDeviceUnbind, tasks.Succeeded, false}:   150,
			{tasks.KindDeviceUnbind, tasks.Succeeded, true}:    40,
			{tasks.KindDeviceUnbind, tasks.AlreadyGone, false}: 10,
			{tasks.KindLockRelease, tasks.Dead, false}:         40,
		},
	}
	const columns = `                          UNBINDS  RELEASES  TOTAL
succeeded at once             150         0    150
succeeded after failures       40         0     40
already gone                   10         0     10
superseded                      0         0      0
dead                            0        40     40
sum                           200        40    240
enqueued                      200        40    240
`
	const cards = `succeeded at once
unbinds: 150
releases: 0
total: 150

succeeded after failures
unbinds: 40
releases: 0
total: 40

already gone
unbinds: 10
releases: 0
total: 10

superseded
unbinds: 0
releases: 0
total: 0

dead
unbinds: 0
releases: 40
total: 40

sum
unbinds: 200
releases: 40
total: 240

enqueued
unbinds: 200
releases: 40
total: 240
`
	for width, want := range map[string]string{"40": cards, "80": columns, "120": columns} {
		t.Setenv("COLUMNS", width)
		var out bytes.Buffer
		if err := r.writeTable(&out); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("%s columns (-want +got):\n%s", width, diff)
		}
	}
}
