package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// standIn is a KooDrive that performs every unbind at once, and notes when each task
// was called.
type standIn struct {
	url    string
	server *http.Server
	calls  atomic.Pointer[calls]
}

func startStandIn(ctx context.Context) (*standIn, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &standIn{url: "http://" + listener.Addr().String()}
	s.expect(0)
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(listener) }() // until stop
	return s, nil
}

func (s *standIn) stop() { _ = s.server.Close() }

// apiPath is the path of an unbind, before the id of the device.
const apiPath = "/koodrive/ose/v1/backup/device/"

// ServeHTTP answers as KooDrive does, with the device that was removed.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	device, _ := strings.CutPrefix(r.URL.Path, apiPath)
	n, ok := deviceNumber(device)
	if r.Method != http.MethodDelete || !ok {
		s.calls.Load().unknown.Add(1)
		http.NotFound(w, r)
		return
	}
	s.calls.Load().count(n)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"code":0,"msg":"success","data":{"deviceId":"` + strconv.Itoa(firstDevice+n) +
		`","machineCode":"8f2c51d0a7b94e63","deviceName":"Phone","deviceOS":"android","createTime":"2025-09-15T06:14:48.630Z"}}`))
}

// expect forgets all calls, and expects those of tasks 0 to n-1.
func (s *standIn) expect(n int) *calls {
	c := &calls{began: time.Now(), first: make([]atomic.Int64, n)}
	s.calls.Store(c)
	return c
}

// calls are those of one measurement.
type calls struct {
	began    time.Time
	first    []atomic.Int64 // when each task was called first, in ns since began; 0: it was not called
	distinct atomic.Int64   // tasks that were called
	repeated atomic.Int64   // calls of tasks that had been called before
	unknown  atomic.Int64   // calls that nobody should have made
	tenth    atomic.Int64   // when a tenth of the tasks had been called, in ns since began
}

func (c *calls) count(n int) {
	if n >= len(c.first) {
		c.unknown.Add(1)
		return
	}
	now := int64(time.Since(c.began))
	if !c.first[n].CompareAndSwap(0, now) {
		c.repeated.Add(1)
		return
	}
	if int(c.distinct.Add(1)) == len(c.first)/10 {
		c.tenth.Store(now)
	}
}

// counted is how many tasks count: all but the first tenth.
func (c *calls) counted() float64 { return float64(len(c.first) - len(c.first)/10) }

// since returns how long these have taken until a time.
func (c *calls) since(end time.Time) time.Duration {
	return end.Sub(c.began) - time.Duration(c.tenth.Load())
}

// firstDevice is the id of the device of task 0. The others follow.
const firstDevice = 1775406005920000000

// task returns the task with this number. A user has three devices.
func task(n int) tasks.DeviceUnbind {
	return tasks.DeviceUnbind{UserID: fmt.Sprintf("user-%07d", n/3), DeviceID: strconv.Itoa(firstDevice + n)}
}

// deviceNumber returns the number of the task that has this device.
func deviceNumber(device string) (n int, ok bool) {
	id, err := strconv.Atoi(device)
	return id - firstDevice, err == nil && id >= firstDevice
}
