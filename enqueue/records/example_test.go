package records_test

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/kooworker/kooworker/enqueue/records"
	"github.com/kooworker/kooworker/tasks"
)

func ExampleTasksCSV() {
	file := strings.NewReader("user_id,device_id\nu-1,42\nu-2,not/valid\n")
	for task, err := range records.TasksCSV(tasks.KindDeviceUnbind, file) {
		fmt.Println(task, err)
	}
	// Output:
	// {u-1 42 false} <nil>
	// <nil> line 3: device_id is "not/valid"; want 1 to 64 letters, digits, hyphens or underscores
}

func ExampleLocksCSV() {
	file := strings.NewReader("user_id,lock_id,expires_at\nu-1,l-1@102,2026-01-31T09:30:00+01:00\nu-2,l-2,\nu-3,l-3,tomorrow\n")
	for lock, err := range records.LocksCSV(file, nil) {
		switch {
		case err != nil:
			fmt.Println(err)
		case lock.ExpiresAt.IsZero():
			fmt.Println(lock.LockID, "expires at a time that the file does not say")
		default:
			fmt.Println(lock.LockID, "expires at", lock.ExpiresAt)
		}
	}
	// Output:
	// l-1@102 expires at 2026-01-31 08:30:00 +0000 UTC
	// l-2 expires at a time that the file does not say
	// line 4: expires_at is "tomorrow"; want RFC 3339 with a time zone, such as 2026-01-31T08:30:00Z
}

func ExampleRejects() {
	rejects := records.NewRejects(os.Stdout) // a file, for anything but an example
	file := strings.NewReader("name,user_id,device_id\nAda,u-1,42\nBob,,43\nEve,u-3,not/valid\n")
	for task, err := range records.TasksCSV(tasks.KindDeviceUnbind, file) {
		bad, ok := errors.AsType[*records.LineError](err)
		switch {
		case ok:
			err = rejects.Add(bad)
		case err == nil:
			_ = task // enqueue it
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := rejects.Flush(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// name,user_id,device_id
	// Bob,,43
	// Eve,u-3,not/valid
}
