package enqueue

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/kooworker/kooworker/tasks"
)

// ReadJSONL yields the tasks of a file with one JSON object a line, which has
// the members that are columns in CSV; others are passed over, and so are blank
// lines. No member may be given twice. Errors and compression are as in ReadCSV.
// Lines that were exported from the dead letters are read as well.
func ReadJSONL(kind tasks.Kind, r io.Reader) iter.Seq2[tasks.Task, error] {
	return func(yield func(tasks.Task, error) bool) {
		names, err := idNames(kind)
		if err != nil {
			yield(nil, err)
			return
		}
		eachLine(newLineReader(r), "", yield, func(text []byte) (tasks.Task, error) {
			ids, _, err := parseObject(kind, names, text)
			if err != nil {
				return nil, err
			}
			return newTask(kind, ids)
		})
	}
}

// parseObject takes the ids out of a line, in the order of idNames, and returns
// all its members as well.
func parseObject(kind tasks.Kind, names []string, text []byte) (ids [2]string, members map[string]json.RawMessage, err error) {
	if members, err = readMembers(text); err != nil {
		return ids, nil, err
	}
	if err := refuseTargets(kind, func(name string) bool { return members[name] != nil }); err != nil {
		return ids, nil, err
	}
	if names, err = exportedNames(kind, names, members); err != nil {
		return ids, nil, err
	}
	for i, name := range names {
		if ids[i], err = stringMember(members, name); err != nil {
			return ids, nil, err
		}
	}
	return ids, members, nil
}

// readMembers reads one JSON object, the values as they are.
func readMembers(text []byte) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	err := json.Unmarshal(text, &members)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, fmt.Errorf("is not JSON: %w", syntax)
	}
	if err != nil || members == nil {
		return nil, errors.New("is not a JSON object")
	}
	if countMembers(text) != len(members) {
		// The map has the last, and nobody knows which of them is meant.
		return nil, errors.New("gives a member twice; want it once")
	}
	return members, nil
}

// countMembers counts the members of an object that is known to be valid JSON.
func countMembers(object []byte) (n int) {
	depth := 0
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '"':
			for i++; object[i] != '"'; i++ {
				if object[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ':':
			if depth == 1 {
				n++
			}
		}
	}
	return n
}

// exportedNames are the names of the ids in a line that was exported from the
// dead letters, if it is one: these name every kind's target alike, and their
// kind.
func exportedNames(kind tasks.Kind, names []string, members map[string]json.RawMessage) ([]string, error) {
	if members["target"] == nil || members["kind"] == nil {
		return names, nil
	}
	if len(names) > 1 && members[names[1]] != nil {
		return names, nil
	}
	exported, err := stringMember(members, "kind")
	if err == nil && exported != string(kind) {
		err = &tasks.FieldError{Field: "kind", Problem: fmt.Sprintf("is %+.40q; want %s", exported, kind)}
	}
	return []string{names[0], "target"}[:len(names)], err
}

func stringMember(members map[string]json.RawMessage, name string) (string, error) {
	raw, ok := members[name]
	if !ok {
		return "", &tasks.FieldError{Field: name, Problem: "is missing"}
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", &tasks.FieldError{Field: name, Problem: "is " + jsonType(raw) + "; want a string, in quotes"}
	}
	return *s, nil
}

func jsonType(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
