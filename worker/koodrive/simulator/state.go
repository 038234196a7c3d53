package simulator

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Device is a device that is bound to a user, as KooDrive writes it.
type Device struct {
	DeviceID    string `json:"deviceId"`
	MachineCode string `json:"machineCode"`
	DeviceName  string `json:"deviceName"`
	DeviceOS    string `json:"deviceOS"`
	// CreateTime is when the device was bound, as FormatTime writes it.
	CreateTime string `json:"createTime"`
}

// Lock is a backup lock that somebody holds.
type Lock struct {
	LockID     string    `json:"lockId"`
	ModuleCode string    `json:"moduleCode"`
	ExpiresAt  time.Time `json:"expiresAt"`
}

func newLock(id string, expires time.Time) Lock {
	_, module, _ := strings.Cut(id, "@")
	return Lock{LockID: id, ModuleCode: module, ExpiresAt: expires}
}

// FormatTime writes a time as KooDrive does: 2025-09-15T06:14:48.630Z.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// firstDevice is the id that the vendor's page shows. Generated ids count from
// there, so that they have 19 digits and are the same in every run.
const firstDevice = 1775406005920779393

// state is what KooDrive remembers.
type state struct {
	mu       sync.Mutex
	accounts map[string]*account
	issued   int64 // device ids generated so far
}

// account is what belongs to one user. Its maps are made when they are needed,
// since a run may have a million users.
type account struct {
	devices  map[string]*Device
	machines map[string]*Device
	locks    map[string]time.Time // when each expires
}

func newState() *state { return &state{accounts: make(map[string]*account)} }

// open returns a user's account, and creates it if there is none. The caller holds
// the mutex.
func (s *state) open(user string) *account {
	a := s.accounts[user]
	if a == nil {
		a = &account{}
		s.accounts[user] = a
	}
	return a
}

// tidy removes the account of a user who has nothing any more. The caller holds the
// mutex.
func (s *state) tidy(user string, a *account) {
	if len(a.devices) == 0 && len(a.locks) == 0 {
		delete(s.accounts, user)
	}
}

// bind adds a device and generates the fields that it lacks. If it has no id and its
// machine is bound already, nothing is added, and bind returns the bound device. If
// it has an id, it replaces the devices that had its id or its machine.
func (s *state) bind(user string, d Device, now time.Time) (bound Device, added bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.open(user)
	if a.devices == nil {
		a.devices, a.machines = make(map[string]*Device), make(map[string]*Device)
	}
	if known := a.machines[d.MachineCode]; known != nil && d.DeviceID == "" {
		return *known, false
	}
	for d.DeviceID == "" { // once, unless somebody chose the same id
		id := strconv.FormatInt(firstDevice+s.issued, 10)
		s.issued++
		if a.devices[id] == nil && a.machines["m"+id] == nil {
			d.DeviceID = id
		}
	}
	d.MachineCode = cmp.Or(d.MachineCode, "m"+d.DeviceID)
	d.CreateTime = cmp.Or(d.CreateTime, FormatTime(now))
	a.drop(a.devices[d.DeviceID])
	a.drop(a.machines[d.MachineCode])
	a.devices[d.DeviceID], a.machines[d.MachineCode] = &d, &d
	return d, true
}

func (a *account) drop(d *Device) {
	if d != nil {
		delete(a.devices, d.DeviceID)
		delete(a.machines, d.MachineCode)
	}
}

func (s *state) unbind(user, id string) (Device, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[user]
	if a == nil || a.devices[id] == nil {
		return Device{}, false
	}
	d := a.devices[id]
	a.drop(d)
	s.tidy(user, a)
	return *d, true
}

// devicesOf lists a user's devices, oldest first. The list is never nil, since a
// user without devices gets an empty list as answer.
func (s *state) devicesOf(user string) []Device {
	s.mu.Lock()
	list := []Device{}
	if a := s.accounts[user]; a != nil {
		for _, d := range a.devices {
			list = append(list, *d)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.CreateTime, b.CreateTime), cmp.Compare(a.DeviceID, b.DeviceID))
	})
	return list
}

func (s *state) takeLock(user, module string, expires time.Time) string {
	id := uuid.NewString() + "@" + module
	s.addLock(user, id, expires)
	return id
}

func (s *state) addLock(user, id string, expires time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.open(user)
	if a.locks == nil {
		a.locks = make(map[string]time.Time)
	}
	a.locks[id] = expires
}

func (s *state) release(user, id string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[user]
	if a == nil {
		return false
	}
	expires, held := a.locks[id]
	delete(a.locks, id)
	s.tidy(user, a)
	return held && expires.After(now)
}

func (s *state) renew(user, id string, now, expires time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[user]
	if a == nil || !a.locks[id].After(now) {
		return false
	}
	a.locks[id] = expires
	return true
}

// locksOf lists the locks that a user holds, the first to expire first.
func (s *state) locksOf(user string, now time.Time) []Lock {
	s.mu.Lock()
	list := []Lock{}
	if a := s.accounts[user]; a != nil {
		for id, expires := range a.locks {
			if expires.After(now) {
				list = append(list, newLock(id, expires))
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Lock) int {
		return cmp.Or(a.ExpiresAt.Compare(b.ExpiresAt), cmp.Compare(a.LockID, b.LockID))
	})
	return list
}
