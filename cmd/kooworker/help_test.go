package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersion_Flag(t *testing.T) {
	want := kooworker(t, "", "version")
	t.Setenv("KOOWORKER_VERSION", "v1.2.3") // as a chart may name the image's version
	for _, args := range [][]string{{"--version"}, {"batch", "show", "--version"}} {
		if r := kooworker(t, "", args...); r != want {
			t.Errorf("%q: %+v; want the same as version, %+v", args, r, want)
		}
	}
}

func TestHelp_OfACommand(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"", "batch", "batch show", "worker", "help"} {
		want := kooworker(t, "", append(strings.Fields(command), "--help")...)
		if got := kooworker(t, "", append([]string{"help"}, strings.Fields(command)...)...); got != want || got.code != exitDone {
			t.Errorf("help %s (-want +got):\n%s; want the same as --help", command, cmp.Diff(want.stdout, got.stdout)+got.stderr)
		}
	}
}

func TestHelp_UnknownCommand(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"bogus":           "kooworker: kooworker has no command \"bogus\"\nhint: kooworker help lists the commands\n",
		"batch bogus":     "kooworker: kooworker batch has no command \"bogus\"\nhint: kooworker help batch lists the commands\n",
		"batch show more": "kooworker: kooworker batch show has no command \"more\"\nhint: kooworker help batch show shows its flags\n",
	} {
		r := kooworker(t, "", append([]string{"help"}, strings.Fields(command)...)...)
		if r.code != exitUsage || r.stderr != want || r.stdout != "" {
			t.Errorf("help %s: %+v; want exit 2 and %q", command, r, want)
		}
	}
}
