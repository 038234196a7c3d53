package main

import (
	"strings"
	"testing"

	"github.com/kooworker/kooworker/internal/redistest"
)

// /dev/full of Linux behaves like a full disk.
func TestEnqueueFile_RejectsOnAFullDisk(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, in := range map[string]string{
		"at the end": "user_id,device_id\nu\n",
		"midway":     "user_id,device_id\n" + strings.Repeat("u\n", 100_000),
	} {
		r := kooworker(t, in, "enqueue", "unbind", "--file", "-", "--rejects", "/dev/full", "--redis-url", server.URL())
		if r.code != exitFailed || !strings.Contains(r.stderr, "--rejects: ") || !strings.Contains(r.stderr, "no space left") || strings.Contains(r.stderr, "hint") {
			t.Errorf("%s: %+v; want exit 1, '--rejects:', 'no space left' and no 'hint'", name, r)
		}
	}
}
