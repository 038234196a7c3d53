package tasks_test

import (
	"testing"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// A bulk encodes every task, and a worker decodes it.

var benchmarkedTask = tasks.DeviceUnbind{UserID: "user-0000001", DeviceID: "1775406005920779393"}

func benchmarkedIntents() map[string]tasks.Intent {
	at := time.Date(2026, 1, 31, 8, 30, 0, 5e6, time.UTC)
	return map[string]tasks.Intent{
		"single":       {EnqueuedAt: at},
		"of a batch":   {EnqueuedAt: at, BatchRef: tasks.BatchRef{Batch: "deletions-2026-11-22", Index: 123_456}},
		"all that fit": {EnqueuedAt: at, BatchRef: tasks.BatchRef{Batch: "deletions-2026-11-22", Index: 123_456}, NotAfter: at.Add(time.Hour), NoGuard: true},
	}
}

func BenchmarkEncode(b *testing.B) {
	for name, intent := range benchmarkedIntents() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tasks.Encode(benchmarkedTask, intent); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, intent := range benchmarkedIntents() {
		b.Run(name, func(b *testing.B) {
			payload, err := tasks.Encode(benchmarkedTask, intent)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if task, _, err := tasks.Decode(tasks.KindDeviceUnbind, payload); err != nil || task != benchmarkedTask {
					b.Fatal(task, err)
				}
			}
		})
	}
}
