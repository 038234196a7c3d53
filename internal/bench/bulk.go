package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// measureBulk enqueues a file as a batch, near and far.
func (b *bench) measureBulk(ctx context.Context) error {
	file := filepath.Join(b.dir, "devices.csv")
	if err := writeCSV(file, b.bulk); err != nil {
		return err
	}
	near, far := b.places()
	sides := []struct {
		from         place
		target       *target
		rates, peaks []float64
	}{{from: near, target: atLeast(100_000)}, {from: far, target: atLeast(60_000)}}
	for round := range b.rounds {
		for i := range sides {
			s := &sides[i]
			rate, peak, err := b.bulkOnce(ctx, s.from, file)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", s.from.name, round+1, err)
			}
			s.rates, s.peaks = append(s.rates, rate), append(s.peaks, peak)
			b.progressf("bulk, round %d of %d, %s: %s lines/s, %s MB", round+1, b.rounds, s.from.name, number(rate), number(peak))
		}
	}
	for _, s := range sides {
		b.report.add(figure{Section: "bulk", Name: s.from.name + ": enqueue with a batch", Unit: "lines/s", Rounds: s.rates, Target: s.target})
	}
	for _, s := range sides {
		b.report.add(figure{Section: "bulk", Name: s.from.name + ": peak memory of the producer", Unit: "MB", Rounds: s.peaks, Target: below(100)})
	}
	return nil
}

// bulkOnce measures how many lines a second a producer enqueues, and the peak of its
// memory in MB.
func (b *bench) bulkOnce(ctx context.Context, from place, file string) (rate, peak float64, err error) {
	if err := b.flush(ctx); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	var stdout bytes.Buffer
	cmd := b.kooworkerCommand(from.addr, "enqueue", "unbind", "--file", file, "--batch", batchID, "--json")
	cmd.Stdout = &stdout
	producer, err := startProcess(cmd, filepath.Join(b.dir, "producer.log"))
	if err != nil {
		return 0, 0, err
	}
	defer producer.kill()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		// If the process has just ended, the peak before holds.
		if now, err := producer.peakMemory(); err == nil {
			peak = now / megabyte
		}
		select {
		case <-producer.exited:
			running = false
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-tick.C:
		}
	}
	rate = float64(b.bulk) / time.Since(began).Seconds()
	if !cmd.ProcessState.Success() {
		return 0, 0, producer.failure()
	}
	var summary struct{ Enqueued int }
	if err := json.Unmarshal(stdout.Bytes(), &summary); err != nil || summary.Enqueued != b.bulk {
		return 0, 0, fmt.Errorf("the producer says %q; want %d enqueued", stdout.String(), b.bulk)
	}
	return rate, peak, nil
}

const megabyte = 1e6

// writeCSV writes a file of n unbinds.
func writeCSV(name string, n int) error {
	file, err := os.Create(name) //nolint:gosec // G304: in a folder of our own
	if err != nil {
		return err
	}
	w := bufio.NewWriter(file)
	fmt.Fprintln(w, "user_id,device_id")
	for i := range n {
		t := task(i)
		fmt.Fprintf(w, "%s,%s\n", t.UserID, t.DeviceID)
	}
	return errors.Join(w.Flush(), file.Close())
}
