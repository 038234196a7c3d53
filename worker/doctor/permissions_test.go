package doctor

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// deploy/redis-users.acl allows what the doctor asks for, and nothing else. A test of the
// commands holds that this is what they need.
func TestCommands_AreThoseOfTheUsersFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/redis-users.acl")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, found := strings.Cut(string(text), "user kooworker on ")
	if !found {
		t.Fatal("the file has no user kooworker")
	}
	rules, _, _ = strings.Cut(rules, "\n")
	allowed := map[string]bool{}
	for word := range strings.FieldsSeq(rules) {
		if name, isCommand := strings.CutPrefix(word, "+"); isCommand {
			name, _, _ = strings.Cut(name, "|")
			allowed[name] = true
		}
	}
	for _, name := range Commands() {
		if !allowed[name] {
			t.Errorf("the doctor asks for %s, which the file does not allow", name)
		}
	}
	for name := range allowed {
		if name != "config" && !slices.Contains(Commands(), name) { // doctor says by itself if it may not CONFIG GET
			t.Errorf("the file allows %s, which the doctor does not ask for", name)
		}
	}
}
