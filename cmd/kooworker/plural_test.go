package main

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/kooworker/kooworker/internal/redistest"
)

func TestOutput_Singular(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, tc := range []struct{ args, stdin, want string }{
		{"enqueue unbind --file - --batch b-1", "user_id,device_id\nu,1\n", "1 line: 1 enqueued, 0 duplicate"},
		{"enqueue unbind --file - --at 2036-01-01T00:00:00Z", "user_id,device_id\nu,2\n", "; it runs from 2"},
		{"enqueue unbind --file -", "user_id,device_id\n", "0 lines: 0 enqueued"},
		{"enqueue unbind --file -", "user_id,device_id\nu,4\nu\n", "2 lines: 1 enqueued, 0 duplicate, 1 rejected"},
		{"batch audit b-1", "", "clean: 1 task, whose states were counted again; 0 receipts"},
		{"batch wait b-1 --timeout 200ms", "", "1 of 1 task is queued"},
		{"locks track --file - --expires-in 1s", "user_id,lock_id\nu,1@102\n", "1 line: 1 tracked"},
		{"locks sweep --dry-run", "", "0 of 1 lock are stale; 0 would be released"},
		{"dead replay --all --dry-run", "", "0 dead letters would be replayed"},
	} {
		r := kooworker(t, tc.stdin, append(strings.Fields(tc.args), "--redis-url", server.URL())...)
		if !strings.Contains(r.stdout+r.stderr, tc.want) {
			t.Errorf("%s: %+v; want %q", tc.args, r, tc.want)
		}
	}
}

// Numbers that people read go through humanize.Count.
func TestOutput_CountsThroughTheHelper(t *testing.T) {
	t.Parallel()
	plural := regexp.MustCompile(`%d (?:[a-z]+ )?(?:batch|device|entr|event|letter|line|lock|order|queue|receipt|record|release|task|unbind|user|worker)(?:s|es|ies)\b`)
	sources, files := os.DirFS("."), 0
	err := fs.WalkDir(sources, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		text, err := fs.ReadFile(sources, path)
		for _, found := range plural.FindAllString(string(text), -1) {
			t.Errorf("%s: %q; want humanize.Count, which knows the singular", path, found)
		}
		return err
	})
	if err != nil || files < 20 {
		t.Errorf("%d files, %v; want all of the command line", files, err)
	}
}
