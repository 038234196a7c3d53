package tasks_test

import (
	"errors"
	"testing"

	"github.com/kooworker/kooworker/tasks"
)

func TestCheckPlausible(t *testing.T) {
	t.Parallel()
	for id, plausible := range map[string]bool{
		"1.50508E+18": false, "1,50508E+18": false, "1,50508e-7": false, "1,5": true, "1505084218764547200.0": false, "15050842187645472.": false, "1.5e-7": false, "-12.0": false, "1E+18": false,
		"NULL": false, "null": false, "None": false, "nan": false, "NaN": false, "#N/A": false, "n/a": false, "-": false, "--": false, "undefined": false, `\N`: false,
		"1775406005920779393": true, "12e5": true, "1234e567": true, "u-1": true, "nullable": true, "a.b": true, "1.2.3": true, "+49": true, "-1-": true, "": true,
	} {
		for field, task := range map[string]tasks.Task{
			"user_id": tasks.UserOffboard{UserID: id}, "device_id": tasks.DeviceUnbind{UserID: "u", DeviceID: id}, "lock_id": tasks.LockRelease{UserID: "u", LockID: id},
		} {
			err := tasks.CheckPlausible(task)
			wrong, is := errors.AsType[*tasks.FieldError](err)
			if is == plausible || is && wrong.Field != field {
				t.Errorf("%s %q: %v; want plausible %t, and its field named", field, id, err, plausible)
			}
		}
	}
}
