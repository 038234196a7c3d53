package koodrive

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// Device is a device as KooDrive describes it. Its DeviceID is the id that Unbind
// takes, its MachineCode the id that the device gave itself when it was bound, and
// its CreateTime is by KooDrive's clock.
type Device = tasks.Device

// readDevice reads one device. It is lenient where it does not matter: an id that
// was sent as a number is still an id, and a name that is no string is no reason
// to doubt that the work was done. It returns an error about what does matter.
func readDevice(raw json.RawMessage) (Device, error) {
	var w struct {
		DeviceID    lenientString `json:"deviceId"`
		MachineCode lenientString `json:"machineCode"`
		DeviceName  lenientString `json:"deviceName"`
		DeviceOS    lenientString `json:"deviceOS"`
		CreateTime  lenientString `json:"createTime"`
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return Device{}, errors.New("is not an object")
	}
	d := Device{
		DeviceID:    string(w.DeviceID),
		MachineCode: string(w.MachineCode),
		DeviceName:  string(w.DeviceName),
		DeviceOS:    string(w.DeviceOS),
	}
	if d.DeviceID == "" {
		return Device{}, errors.New("has no deviceId")
	}
	if w.CreateTime != "" {
		at, err := time.Parse(time.RFC3339Nano, string(w.CreateTime))
		if err != nil {
			return d, errors.New("has a createTime that is no time")
		}
		d.CreateTime = at.UTC()
	}
	return d, nil
}

// readDevices reads the list of a user's devices. The worker acts on it, unlike on
// the device that an unbind returns: an empty list means that nothing is left to
// unbind, and a createTime decides whether an old intent is stale. So a list that
// is absent or not fully understood is an error, and only [] or null is empty.
func readDevices(raw json.RawMessage) ([]Device, error) {
	if raw == nil {
		return nil, errors.New("the answer holds no list of devices")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errors.New("the answer's data is not a list of devices")
	}
	devices := make([]Device, 0, len(list))
	for i, item := range list {
		d, err := readDevice(item)
		if err != nil {
			return nil, fmt.Errorf("device %d of the list %w", i+1, err)
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// lenientString is a JSON string, the digits of a JSON number, or "" for anything
// else.
type lenientString string

// UnmarshalJSON never fails.
func (l *lenientString) UnmarshalJSON(raw []byte) error {
	*l = ""
	var s string
	var n json.Number
	switch {
	case json.Unmarshal(raw, &s) == nil:
		*l = lenientString(s)
	case json.Unmarshal(raw, &n) == nil:
		*l = lenientString(n)
	}
	return nil
}
