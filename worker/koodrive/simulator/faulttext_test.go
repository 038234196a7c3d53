package simulator_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

var faultTexts = map[string]simulator.Fault{
	"forbidden,call=unbind,target=forbidden-*": {
		Kind: "forbidden", Match: simulator.Match{Call: "unbind", Target: "forbidden-*"},
	},
	"throttled,retry-after=1s,times=1,per-target": {
		Kind: "throttled", RetryAfter: time.Second, Times: 1, PerTarget: true,
	},
	"slow,delay=2s,rate=0.1": {Kind: "slow", Delay: 2 * time.Second, Rate: 0.1},
	"skew=-20m0s":            {Skew: -20 * time.Minute},
	`status=503,header.X-A=1,header.X-A="2, 3",body={"a":1,"b":[2]} `: {
		Status: 503, Header: http.Header{"X-A": {"1", "2, 3"}}, Body: `{"a":1,"b":[2]} `,
	},
	`reset-after,name="a, \"b\" ",user="a,b"`: {
		Name: `a, "b" `, Kind: "reset-after", Match: simulator.Match{User: "a,b"},
	},
}

func TestParseFault_ReadsWhatStringWrites(t *testing.T) {
	t.Parallel()
	for text, want := range faultTexts {
		got, err := simulator.ParseFault(text)
		if err != nil {
			t.Errorf("ParseFault: %v", err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		again, err := simulator.ParseFault(got.String())
		if diff := cmp.Diff(got, again); diff != "" || err != nil {
			t.Errorf("%s is read again from %s with a difference: %v (-first +second):\n%s", text, got, err, diff)
		}
	}
}

func TestParseFault_AnySpacesAndOrder(t *testing.T) {
	t.Parallel()
	got, err := simulator.ParseFault(` per-target , times = 2 ,user= "u,1" , forbidden `)
	want := simulator.Fault{Kind: "forbidden", Match: simulator.Match{User: "u,1"}, Times: 2, PerTarget: true}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestParseFault_ErrorSaysWhatToWrite(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                           "a field is empty",
		"forbidden,":                 "a field is empty",
		"explode":                    "forbidden, forbidden-200",
		"forbidden,slow":             "two kinds",
		"forbidden,colour=red":       "want name, call, user, target, status",
		"forbidden,call=delete":      "unbind, release, list",
		"forbidden,call=":            "want a word",
		"forbidden,times=0":          "want a number from 1",
		"forbidden,times=1,times=2":  "times is given twice",
		"forbidden,rate=0":           "want a share above 0",
		"forbidden,rate=NaN":         "want a share above 0",
		"slow,delay=2":               "want a time such as 1.5s",
		"slow":                       "slow needs a delay",
		"status=200.5":               "want a number",
		`forbidden,user="u`:          "want a Go string",
		`forbidden,user="u"v`:        "want a comma",
		"status=500,header.a b=c":    "misspelt",
		"forbidden,per-target":       "per-target needs times",
		"forbidden,body=x":           "body needs a status",
		"status=500,header.X-A=\"\n": "want a Go string",
	} {
		if _, err := simulator.ParseFault(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseFault(%q) = %v; want an error with %q", text, err, want)
		}
	}
}

func TestFaultKinds_CanBeWrittenInText(t *testing.T) {
	t.Parallel()
	for _, kind := range simulator.FaultKinds() {
		if strings.ContainsAny(kind, `,=" `) || kind == "per-target" {
			t.Errorf("kind %q cannot be written in a fault's text", kind)
		}
	}
}

func FuzzParseFault(f *testing.F) {
	for text := range faultTexts {
		f.Add(text)
	}
	for _, text := range []string{"", ",", "=", "name=", `name="`, "body=", "forbidden,header.=", "status=200,body=\xff,", "slow,delay=1ns,rate=5e-324"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fault, err := simulator.ParseFault(text)
		if err != nil {
			return
		}
		again, err := simulator.ParseFault(fault.String())
		if err != nil {
			t.Fatalf("%q is written as %q, which is refused: %v", text, fault, err)
		}
		if diff := cmp.Diff(fault, again); diff != "" {
			t.Errorf("%q is written as %q, which means something else (-first +second):\n%s", text, fault, diff)
		}
	})
}
