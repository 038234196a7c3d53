package records

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kooworker/kooworker/tasks"
)

// newJSONParser returns no header: JSON Lines has none.
func newJSONParser(s schema, _ *lineReader) (parser, string, error) {
	return s.parseObject, "", nil
}

func (s schema) parseObject(line []byte) (rec record, err error) {
	m, err := parseMembers(line)
	if err != nil {
		return rec, err
	}
	if s.onLine != nil {
		if rec.ref = m["ref"]; len(rec.ref) > maxRef {
			rec.ref, err = nil, &tasks.FieldError{Field: "ref", Problem: fmt.Sprintf("is %d bytes long; want at most %d", len(rec.ref), maxRef)}
			return rec, err
		}
	}
	if err := s.refuseTargets(m.has); err != nil {
		return rec, err
	}
	names := s.names
	if !s.timeRequired { // dead letters have no expiry
		if names, err = m.exportedNames(s.kind, names); err != nil {
			return rec, err
		}
	}
	for i, name := range names {
		if rec.ids[i], err = m.text(name); err != nil {
			return rec, err
		}
	}
	if s.timeRequired || m.has(s.timeName) {
		text, err := m.text(s.timeName)
		if err == nil {
			rec.at, err = s.parseTime(text)
		}
		rec.timeErr = err
	}
	return rec, nil
}

// maxRef bounds the refs of the thousands of lines that are under way at a time.
const maxRef = 256

// members are the members of a JSON object, with their values unparsed.
type members map[string]json.RawMessage

func parseMembers(line []byte) (m members, err error) {
	err = json.Unmarshal(line, &m)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, fmt.Errorf("is not JSON: %w", syntax)
	}
	if err != nil || m == nil {
		return nil, errors.New("is not a JSON object")
	}
	if countMembers(line) != len(m) {
		// The map has the last of the two, and nobody knows which one is meant.
		return nil, errors.New("gives a member twice; want it once")
	}
	return m, nil
}

// countMembers counts the members of an object that is known to be valid JSON, by
// their colons. A json.Decoder could yield the names as tokens, but halves the
// speed at which files are read.
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

func (m members) has(name string) bool { return m[name] != nil }

// exportedNames returns the names of the ids. They differ in a line that was
// exported from the dead letters: it has the kind, and names the target of every
// kind "target".
func (m members) exportedNames(kind tasks.Kind, names []string) ([]string, error) {
	if !m.has("target") || !m.has("kind") || len(names) > 1 && m.has(names[1]) {
		return names, nil
	}
	exported, err := m.text("kind")
	if err == nil && exported != string(kind) {
		err = &tasks.FieldError{Field: "kind", Problem: fmt.Sprintf("is %+.40q; want %s", exported, kind)}
	}
	return []string{names[0], "target"}[:len(names)], err
}

// text returns the value of a member that must be a string.
func (m members) text(name string) (text string, err error) {
	value := m[name]
	switch {
	case value == nil:
		return "", &tasks.FieldError{Field: name, Problem: "is missing"}
	case value[0] != '"':
		return "", &tasks.FieldError{Field: name, Problem: "is " + jsonType(value) + "; want a string, in quotes"}
	}
	err = json.Unmarshal(value, &text)
	return text, err
}

func jsonType(value json.RawMessage) string {
	switch value[0] {
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
