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
