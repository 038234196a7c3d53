package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// withoutFlag are the variables of this program that no flag has: credentials, which must
// not be on a command line.
var withoutFlag = []string{
	"KOODRIVE_TOKEN", "KOODRIVE_TOKEN_FILE", "KOODRIVE_TOKEN_URL", "KOODRIVE_APP_ID", "KOODRIVE_APP_SECRET", "KOODRIVE_APP_SECRET_FILE",
	"KOOWORKER_WEBHOOK_SECRET", "KOOWORKER_WEBHOOK_SECRET_FILE",
}

// prefixes are those of this program's variables.
var prefixes = []string{"KOOWORKER_", "KOODRIVE_"}

// serviceLink matches the variables that Kubernetes sets in each container for a service
// whose name begins like ours, such as KOOWORKER_API_SERVICE_HOST.
var serviceLink = regexp.MustCompile(`_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)$`)

// warnUnknown warns of variables that look like ours and are not: a misspelt one has no
// effect, and nothing else would tell. Help and completion are asked too often for that.
func warnUnknown(kctx *kong.Context, model *kong.Application, log *logFlags, stderr io.Writer) {
	switch name, _, _ := strings.Cut(kctx.Command(), " "); name {
	case "help", "completion", "man", "version":
		return
	}
	unknown := unknownVariables(os.Environ(), variablesOf(model))
	if len(unknown) == 0 {
		return
	}
	warn := func(text string) { fmt.Fprintf(stderr, "warning: %s\n", text) }
	if isService(kctx, nil) {
		log := log.build(stderr)
		warn = func(text string) { log.Warn(text) }
	}
	for _, text := range unknown {
		warn(text)
	}
}

// variablesOf returns the variables of all flags, and those without one.
func variablesOf(model *kong.Application) []string {
	known := make(map[string]bool)
	for _, name := range withoutFlag {
		known[name] = true
	}
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				known[name] = true
			}
		}
		return next(nil)
	})
	return slices.Sorted(maps.Keys(known))
}

// unknownVariables returns a sentence about each variable of an environment that has one of
// our prefixes and is not known. It names no value, which may be a secret.
func unknownVariables(environ, known []string) (sentences []string) {
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, _, _ := strings.Cut(variable, "=")
		if prefix, _ := cutPrefix(name); prefix == "" || slices.Contains(known, name) || serviceLink.MatchString(name) {
			continue
		}
		text := name + " is not a variable of kooworker"
		if meant := nearest(name, known); meant != "" {
			text += "; did you mean " + meant + "?"
		} else {
			text += "; the help of each command lists its variables"
		}
		sentences = append(sentences, text)
	}
	return sentences
}

func cutPrefix(name string) (prefix, rest string) {
	for _, prefix := range prefixes {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return prefix, rest
		}
	}
	return "", name
}

// nearest returns the variable that is most like a name, "" if none is much like it. The
// wrong one of our prefixes counts as one letter.
func nearest(name string, known []string) string {
	prefix, rest := cutPrefix(name)
	best, least := "", max(2, len(rest)/3)+1
	for _, candidate := range known {
		p, r := cutPrefix(candidate)
		d := distance(rest, r)
		if p != prefix {
			d++
		}
		if d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or replace in a to get b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
