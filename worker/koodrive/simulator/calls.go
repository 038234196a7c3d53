package simulator

import (
	"encoding/json"
	"net/http"
	"regexp"
)

// The vendor does not specify the formats of its ids; these are what its
// examples have in common.
var (
	devicePattern  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	lockPattern    = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}(@[0-9]{1,8})?$`)
	machinePattern = regexp.MustCompile(`^[a-zA-Z0-9_]{1,64}$`)
)

// perform carries out a request that has passed the checks.
func (s *Simulator) perform(x *exchange) *reply {
	switch x.call {
	case CallUnbind:
		return s.unbind(x)
	case CallList:
		return success(s.state.devicesOf(x.user))
	case CallBind:
		return s.bind(x)
	case CallLock:
		return s.lock(x)
	default:
		return s.releaseOrRenew(x)
	}
}

func (s *Simulator) unbind(x *exchange) *reply {
	d := s.state.unbind(x.user, x.target)
	switch {
	case d == nil && !devicePattern.MatchString(x.target):
		return badParameters("deviceId is malformed")
	case d == nil:
		return s.gone()
	}
	s.log.count(func(st *Stats) { st.Unbound++ })
	return success(d)
}

func (s *Simulator) releaseOrRenew(x *exchange) *reply {
	if !lockPattern.MatchString(one(x.Header, lockHeader)) {
		return badParameters("x-backup-lock-id is missing or malformed")
	}
	if x.call == CallRelease {
		if !s.state.release(x.user, x.target, x.arrived) {
			return s.gone()
		}
		s.log.count(func(st *Stats) { st.Released++ })
		return success(nil)
	}
	if !s.state.renew(x.user, x.target, x.arrived, x.arrived.Add(lockLife)) {
		return s.gone()
	}
	s.log.count(func(st *Stats) { st.Renewed++ })
	return success(nil)
}

func (s *Simulator) bind(x *exchange) *reply {
	var in struct {
		MachineCode string `json:"machineCode"`
		DeviceName  string `json:"deviceName"`
		DeviceOS    string `json:"deviceOS"`
	}
	if err := json.Unmarshal(x.body, &in); err != nil {
		return badParameters("the body is not the JSON of a device")
	}
	if !machinePattern.MatchString(in.MachineCode) {
		return badParameters("machineCode is missing or malformed")
	}
	d, added := s.state.bind(x.user, Device{MachineCode: in.MachineCode, DeviceName: in.DeviceName, DeviceOS: in.DeviceOS}, x.arrived)
	if added {
		s.log.count(func(st *Stats) { st.Bound++ })
	}
	return success(d)
}

func (s *Simulator) lock(x *exchange) *reply {
	var in struct {
		ModuleCode string `json:"moduleCode"`
	}
	if err := json.Unmarshal(x.body, &in); err != nil {
		return badParameters("the body is not the JSON of a lock")
	}
	switch in.ModuleCode {
	case "100", "101", "102": // folder, album, address book
	default:
		return badParameters("moduleCode is not 100, 101 or 102")
	}
	id := newLockID(in.ModuleCode)
	s.state.addLock(x.user, id, x.arrived.Add(lockLife))
	s.log.count(func(st *Stats) { st.Locked++ })
	return success(map[string]string{"lockId": id})
}

// gone is the answer to a second unbind or release, and to one that names a
// device or lock of another user.
func (s *Simulator) gone() *reply {
	return koodrive(s.cfg.GoneStatus, codeNotFound, "resource doesn't exist")
}

func badParameters(problem string) *reply {
	return koodrive(http.StatusBadRequest, codeBadParameters, "invalid parameters: "+problem)
}
