package simulator_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive/simulator"
)

// A device is throttled once, unbound, and not bound any more.
func Example() {
	fault, err := simulator.ParseFault("throttled,call=unbind,times=1,per-target,retry-after=2s")
	if err != nil {
		fmt.Println(err)
		return
	}
	sim, err := simulator.New(simulator.Config{Faults: []simulator.Fault{fault}})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(sim)
	defer server.Close()

	device := sim.Bind("u-1", simulator.Device{DeviceName: "Magic v3", CreateTime: "2025-09-15T06:14:48.630Z"})
	for range 3 {
		r, _ := http.NewRequest(http.MethodDelete, server.URL+"/koodrive/ose/v1/backup/device/"+device.DeviceID, http.NoBody)
		r.Header.Set("X-User-Id", "u-1")
		r.Header.Set("X-Date", time.Now().UTC().Format("20060102T150405Z"))
		resp, err := server.Client().Do(r)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		fmt.Println(resp.StatusCode, string(body))
	}
	// Output:
	// 429 {"code":13000429,"msg":"too many requests"}
	// 200 {"code":0,"msg":"success","data":{"deviceId":"1775406005920779393","machineCode":"m1775406005920779393","deviceName":"Magic v3","deviceOS":"","createTime":"2025-09-15T06:14:48.630Z"}}
	// 404 {"code":13000309,"msg":"resource doesn't exist"}
}

func ExampleParseFault() {
	fault, _ := simulator.ParseFault(`status=503,times=2,body={"code":13000201,"msg":"busy, come back"}`)
	fmt.Println(fault.Status, fault.Times, fault.Body)
	fmt.Println(fault)

	_, err := simulator.ParseFault("slow")
	fmt.Println(err)
	// Output:
	// 503 2 {"code":13000201,"msg":"busy, come back"}
	// status=503,times=2,body={"code":13000201,"msg":"busy, come back"}
	// fault "slow": slow needs a delay
}

// The gateway grants two calls a minute, and one from the first minute on.
func ExampleParseQuota() {
	quota, err := simulator.ParseQuota("fixed:2/m,tell=text,retry-after=auto,at=1m:x0.5")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(quota)
	now := time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC)
	sim, err := simulator.New(simulator.Config{Clock: func() time.Time { return now }, Quotas: []simulator.Quota{quota}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 5 {
		r := httptest.NewRequest(http.MethodGet, "/koodrive/ose/v1/backup/device", http.NoBody)
		r.Header.Set("X-User-Id", "u-1")
		r.Header.Set("X-Date", now.Format("20060102T150405Z"))
		w := httptest.NewRecorder()
		sim.ServeHTTP(w, r)
		fmt.Printf("%s %d %q\n", now.Format(time.TimeOnly), w.Code, w.Header().Get("Retry-After"))
		now = now.Add(20 * time.Second)
	}
	fmt.Printf("%+v\n", sim.Stats().Quotas)

	_, err = simulator.ParseQuota("fixed:2/m,burst=20")
	fmt.Println(err)
	// Output:
	// fixed:2/m,at=1m0s:1,tell=text,retry-after=auto
	// 08:30:00 200 ""
	// 08:30:20 200 ""
	// 08:30:40 429 "20"
	// 08:31:00 200 ""
	// 08:31:20 429 "40"
	// map[api:{Granted:3 Refused:2 ForeignGranted:0 ForeignRefused:0}]
	// quota "fixed:2/m,burst=20": burst is for a bucket, not for a fixed window
}

func ExampleSimulator_Control() {
	sim, err := simulator.New(simulator.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	sim.Bind("u-1", simulator.Device{DeviceID: "d-1", MachineCode: "m", CreateTime: "2025-09-15T06:14:48.630Z"})
	mux := http.NewServeMux()
	mux.Handle("/", sim)
	mux.Handle("/_sim/", http.StripPrefix("/_sim", sim.Control()))

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/_sim/devices?user_id=u-1", http.NoBody))
	fmt.Println(w.Body)
	// Output:
	// [{"deviceId":"d-1","machineCode":"m","deviceName":"","deviceOS":"","createTime":"2025-09-15T06:14:48.630Z"}]
}
