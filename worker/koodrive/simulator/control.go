package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// maxBind limits how many devices one request to the control face may bind.
const maxBind = 100_000

// Control returns the face for people and scripts. It speaks JSON, asks for no
// authorization, and is not part of the simulated API. Mounted with
//
//	mux.Handle("/_sim/", http.StripPrefix("/_sim", s.Control()))
//
// it answers
//
//	GET    /stats                      Stats
//	GET    /requests?n=20              the last requests, oldest first
//	GET    /faults                     the fault plan, with how often each fault was served
//	POST   /faults                     {"fault":"forbidden,call=unbind"}, see ParseFault
//	DELETE /faults                     empties the fault plan
//	GET    /quotas                     the quotas, with what each has granted and refused
//	POST   /quotas                     {"quota":"bucket:200/s,burst=20"}, see ParseQuota
//	DELETE /quotas                     removes all quotas
//	GET    /devices?user_id=u-1        what the user has bound
//	POST   /devices                    {"user_id":"u-1","count":3} or {"user_id":"u-1","device_id":"d-1"}
//	GET    /locks?user_id=u-1          what the user holds
//	POST   /locks                      {"user_id":"u-1","module":"102"}, or with "lock_id" and "expires_in":"10m"
//
// and, with status 400, {"error":"…"} to a request that makes no sense.
func (s *Simulator) Control() http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(*http.Request) (any, error){
		"GET /stats":     func(*http.Request) (any, error) { return s.Stats(), nil },
		"GET /requests":  s.controlRequests,
		"GET /faults":    func(*http.Request) (any, error) { return s.plan.list(), nil },
		"POST /faults":   s.controlAddFault,
		"DELETE /faults": s.controlClearFaults,
		"GET /quotas":    s.controlQuotas,
		"POST /quotas":   s.controlAddQuota,
		"DELETE /quotas": s.controlClearQuotas,
		"GET /devices":   ofUser(func(user string) any { return s.Devices(user) }),
		"POST /devices":  s.controlBind,
		"GET /locks":     ofUser(func(user string) any { return s.Locks(user) }),
		"POST /locks":    s.controlLock,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			status := http.StatusOK
			answer, err := serve(r)
			if err != nil {
				status, answer = http.StatusBadRequest, map[string]string{"error": err.Error()}
			}
			rep := jsonReply(status, answer)
			maps.Copy(w.Header(), rep.header)
			send(w, rep.status, rep.body)
		})
	}
	return mux
}

func (s *Simulator) controlRequests(r *http.Request) (any, error) {
	text := r.FormValue("n")
	if text == "" {
		return s.Log(0), nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return nil, fmt.Errorf("n is %q; want a number from 1", text)
	}
	return s.Log(n), nil
}

func (s *Simulator) controlAddFault(r *http.Request) (any, error) {
	var in struct {
		Fault *string `json:"fault"`
	}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	if in.Fault == nil {
		return nil, errors.New("fault is missing; want text such as forbidden,call=unbind")
	}
	fault, err := ParseFault(*in.Fault)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	err = s.AddFault(fault)
	return s.plan.list(), err
}

func (s *Simulator) controlClearFaults(*http.Request) (any, error) {
	s.ClearFaults()
	return s.plan.list(), nil
}

func (s *Simulator) controlQuotas(*http.Request) (any, error) {
	return s.quotas.list(s.cfg.Clock().UnixNano()), nil
}

func (s *Simulator) controlAddQuota(r *http.Request) (any, error) {
	var in struct {
		Quota *string `json:"quota"`
	}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	if in.Quota == nil {
		return nil, errors.New("quota is missing; want text such as bucket:200/s,burst=20")
	}
	quota, err := ParseQuota(*in.Quota)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if err := s.AddQuota(quota); err != nil {
		return nil, err
	}
	return s.controlQuotas(r)
}

func (s *Simulator) controlClearQuotas(r *http.Request) (any, error) {
	s.ClearQuotas()
	return s.controlQuotas(r)
}

var errNoUser = errors.New("user_id is missing")

// ofUser answers what list returns for the user in the query.
func ofUser(list func(user string) any) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		user := r.FormValue("user_id")
		if user == "" {
			return nil, errNoUser
		}
		return list(user), nil
	}
}

func (s *Simulator) controlBind(r *http.Request) (any, error) {
	var in struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id"`
		Count    int    `json:"count"`
	}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	switch {
	case in.UserID == "":
		return nil, errNoUser
	case in.DeviceID != "" && in.Count == 0:
		return []Device{s.Bind(in.UserID, Device{DeviceID: in.DeviceID})}, nil
	case in.DeviceID != "" || in.Count < 1 || in.Count > maxBind:
		return nil, fmt.Errorf("want either device_id, or count from 1 to %d", maxBind)
	}
	bound := make([]Device, in.Count)
	for i := range bound {
		bound[i] = s.Bind(in.UserID, Device{})
	}
	return bound, nil
}

func (s *Simulator) controlLock(r *http.Request) (any, error) {
	in := struct {
		UserID    string `json:"user_id"`
		LockID    string `json:"lock_id"`
		Module    string `json:"module"`
		ExpiresIn string `json:"expires_in"`
	}{Module: "102", ExpiresIn: lockLife.String()}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	life, err := time.ParseDuration(in.ExpiresIn)
	switch {
	case in.UserID == "":
		return nil, errNoUser
	case err != nil:
		return nil, fmt.Errorf("expires_in is %q; want a time such as 10m, or -1s for an expired lock", in.ExpiresIn)
	}
	expires := s.cfg.Clock().Add(life)
	if in.LockID == "" {
		in.LockID = newLockID(in.Module)
	}
	s.AddLock(in.UserID, in.LockID, expires)
	return newLock(in.LockID, expires), nil
}

// readControl reads a JSON body. It refuses unknown members, because a misspelt
// member would silently do something else than was meant.
func readControl(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("body goes on after the JSON object")
	}
	return nil
}
