package koodrive

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// How many bytes of an answer are read. A longer answer is not KooDrive's.
const (
	maxAnswer = 1 << 20
	maxList   = 16 << 20
)

// Client calls KooDrive. It is safe for concurrent use. See New.
type Client struct {
	hiddenFromFmt
	base      string // up to and with apiPath
	auth      Authorizer
	transport *http.Transport
	clock     *serverClock
	rules     []rule
	slots     chan struct{} // one for each call in flight
	timeout   time.Duration
	userAgent string
	// askQuota says which requests ask for the quota; nil if none does.
	askQuota *rate.Sometimes
	// redactorOf returns the redactor of an Authorization that was sent.
	redactorOf func(authorization string) *httpx.Redactor

	count            func(Exchange)
	tracer           trace.Tracer // nil if there are no spans
	serverAttributes trace.SpanStartEventOption
	traceHeader      string // "" if none is sent
}

// call holds what differs between the calls.
type call struct {
	name   string // as Exchange.Call
	method string
	path   string // after apiPath, escaped
	route  string // path without ids, for spans
	userID string
	lockID string // "" for all but a release
	limit  int64  // of the answer's size, in bytes
	// observe, if it is not nil, is called with the outcome of each exchange of the call, before
	// the answer is read: when the request was sent, and what came back.
	observe func(sent time.Time, resp *http.Response, err error)
	// trace, if it is not nil, is called on the way of each exchange of the call.
	trace *httptrace.ClientTrace
	// read takes the data of a success, nil if there is none. An error says why
	// the call is no success after all.
	read func(data json.RawMessage) error
}

// Exchange is one HTTP exchange with KooDrive, as metrics see it.
type Exchange struct {
	Call   string // unbind, release or list
	Status int    // of the answer; 0: there was none
	Took   time.Duration
}

// Unbind removes the binding between a user and a device. An answer that names
// another device than the one asked for is tasks.Protocol.
func (c *Client) Unbind(ctx context.Context, userID, deviceID string) Answer {
	if a, ok := validateIDs("user id", userID, "device id", deviceID); !ok {
		return a
	}
	var removed *Device
	a := c.do(ctx, call{
		name: "unbind", method: http.MethodDelete, path: "/device/" + url.PathEscape(deviceID), route: "/device/{deviceId}", userID: userID, limit: maxAnswer,
		read: func(data json.RawMessage) error {
			// An answer need not say what was removed. If it does, it must be the
			// device that was asked for.
			device, _ := readDevice(data)
			switch device.DeviceID {
			case "":
			case deviceID:
				removed = &device
			default:
				return fmt.Errorf("the answer names another device: %s", device.DeviceID)
			}
			return nil
		},
	})
	a.Device = removed
	return a
}

// Release releases a backup lock.
func (c *Client) Release(ctx context.Context, userID, lockID string) Answer {
	if a, ok := validateIDs("user id", userID, "lock id", lockID); !ok {
		return a
	}
	return c.do(ctx, call{
		name: "release", method: http.MethodDelete, path: "/lock", route: "/lock", userID: userID, lockID: lockID, limit: maxAnswer,
		read: func(json.RawMessage) error { return nil },
	})
}

// Devices lists the devices that a user has bound. The list is nil unless the
// answer's reason is tasks.OK.
func (c *Client) Devices(ctx context.Context, userID string) ([]Device, Answer) {
	if a, ok := validateIDs("user id", userID); !ok {
		return nil, a
	}
	var devices []Device
	a := c.do(ctx, call{
		name: "list", method: http.MethodGet, path: "/device", route: "/device", userID: userID, limit: maxList,
		read: func(data json.RawMessage) (err error) {
			devices, err = readDevices(data)
			return err
		},
	})
	return devices, a
}

// Ping finds out whether KooDrive works for a user. It asks for the user's devices,
// and ignores the list.
func (c *Client) Ping(ctx context.Context, userID string) Answer {
	if a, ok := validateIDs("user id", userID); !ok {
		return a
	}
	return c.do(ctx, call{
		name: "list", method: http.MethodGet, path: "/device", route: "/device", userID: userID, limit: maxList,
		read: func(json.RawMessage) error { return nil },
	})
}

// CloseIdleConnections closes the connections that no call uses, including those
// to a token broker.
func (c *Client) CloseIdleConnections() {
	c.transport.CloseIdleConnections()
	closeIdle(c.auth)
}

// validateIDs checks ids, given as name and value in turn. If one is wrong, it
// returns the answer to the call, and false. Package tasks is stricter; here it is
// enough that an id stays one segment of the path, or one header.
func validateIDs(ids ...string) (Answer, bool) {
	for i := 0; i+1 < len(ids); i += 2 {
		name, value := ids[i], ids[i+1]
		var problem string
		switch {
		case value == "":
			problem = "is empty"
		case !httpx.PrintableASCII(value) || strings.TrimSpace(value) != value:
			problem = "is not printable ASCII without surrounding spaces"
		case value == "." || value == "..":
			problem = "would change the path of the URL"
		default:
			continue
		}
		return Answer{Reason: tasks.Invalid, Message: "the " + name + " " + problem}, false
	}
	return Answer{}, true
}
