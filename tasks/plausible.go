package tasks

import (
	"regexp"
	"strings"
)

// rounded is how spreadsheets and programs write a long number: 1.50508E+18, in some
// languages 1,50508E+18, or 1505084218764547200.0.
var rounded = regexp.MustCompile(`^-?[0-9]+(\.[0-9]*)?([eE][+-][0-9]+)?$|^-?[0-9]+,[0-9]*[eE][+-][0-9]+$`)

// placeholders stand for no value. The longest has nine letters.
var placeholders = map[string]bool{
	"null": true, "(null)": true, "nil": true, "none": true, "nan": true, "n/a": true, "#n/a": true, "#ref!": true,
	"#value!": true, "#name?": true, "undefined": true, "-": true, "--": true, `\n`: true,
}

// CheckPlausible refuses ids that no system gives, as a *FieldError. It is for
// what people, files, databases and producers say. KooDrive does not know such a user,
// device or lock and answers that nothing is bound or held. So the task would count as
// done, and its receipt would prove a deletion that did not happen.
//
// What KooDrive itself has listed is not checked, and neither are tasks that name no
// user: sweeps and webhooks.
func CheckPlausible(t Task) error {
	var target string
	switch t := t.(type) {
	case DeviceUnbind:
		if t.Listed {
			return nil
		}
		target = "device_id"
	case LockRelease:
		target = "lock_id"
	case UserOffboard:
	default:
		return nil
	}
	for _, given := range [...]struct{ field, id string }{{"user_id", t.User()}, {target, t.Target()}} {
		field, id := given.field, given.id
		switch {
		case strings.ContainsAny(id, ".,+") && rounded.MatchString(id):
			return &FieldError{Field: field, Problem: "is " + excerpt(id) + ", which looks like a number that a spreadsheet or a program has rounded; want the id as it was given, as text"}
		case len(id) <= len("undefined") && placeholders[strings.ToLower(id)]:
			return &FieldError{Field: field, Problem: "is " + excerpt(id) + ", which stands for no value; want an id"}
		}
	}
	return nil
}
