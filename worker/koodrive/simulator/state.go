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

// Lock is a backup lock that a user holds.
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
	accounts map[string]account // by user, without users who have nothing
	issued   int64              // device ids generated so far
}

// account is what belongs to one user. Its maps are made when they are needed,
// because a run may have a million users.
type account struct {
	devices  map[string]*Device
	machines map[string]*Device
	locks    map[string]time.Time // when each expires
}

// tidy forgets a user who has nothing left. The caller holds the mutex.
func (s *state) tidy(user string) {
	if a := s.accounts[user]; len(a.devices) == 0 && len(a.locks) == 0 {
		delete(s.accounts, user)
	}
}

// bind adds a device and generates what it lacks. If a device has no id and its
// machine is bound already, bind returns the bound device and adds nothing. A
// device with an id replaces the devices that have its id or its machine.
func (s *state) bind(user string, d Device, now time.Time) (bound Device, added bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[user]
	if a.devices == nil {
		a.devices, a.machines = make(map[string]*Device), make(map[string]*Device)
		s.accounts[user] = a
	}
	if known := a.machines[d.MachineCode]; known != nil && d.DeviceID == "" {
		return *known, false
	}
	for d.DeviceID == "" { // a second time only if a caller once chose the id that is next
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

func (a account) drop(d *Device) {
	if d != nil {
		delete(a.devices, d.DeviceID)
		delete(a.machines, d.MachineCode)
	}
}

// unbind removes a device, and returns nil if the user has no such device.
func (s *state) unbind(user, id string) *Device {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[user]
	d := a.devices[id]
	a.drop(d)
	s.tidy(user)
	return d
}

// devicesOf lists a user's devices, oldest first. It is never nil, because the
// answer for a user without devices is an empty list.
func (s *state) devicesOf(user string) []Device {
	list := []Device{}
	s.mu.Lock()
	for _, d := range s.accounts[user].devices {
		list = append(list, *d)
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.CreateTime, b.CreateTime), cmp.Compare(a.DeviceID, b.DeviceID))
	})
	return list
}

func newLockID(module string) string { return uuid.NewString() + "@" + module }

func (s *state) addLock(user, id string, expires time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[user]
	if a.locks == nil {
		a.locks = make(map[string]time.Time)
		s.accounts[user] = a
	}
	a.locks[id] = expires
}

// release removes a lock, and reports whether the user held it until now.
func (s *state) release(user, id string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	locks := s.accounts[user].locks
	held := locks[id].After(now)
	delete(locks, id)
	s.tidy(user)
	return held
}

// renew moves the end of a lock, and reports whether the user holds it.
func (s *state) renew(user, id string, now, expires time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	locks := s.accounts[user].locks
	held := locks[id].After(now)
	if held {
		locks[id] = expires
	}
	return held
}

// locksOf lists the locks that a user holds, the first to expire first.
func (s *state) locksOf(user string, now time.Time) []Lock {
	list := []Lock{}
	s.mu.Lock()
	for id, expires := range s.accounts[user].locks {
		if expires.After(now) {
			list = append(list, newLock(id, expires))
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b Lock) int {
		return cmp.Or(a.ExpiresAt.Compare(b.ExpiresAt), cmp.Compare(a.LockID, b.LockID))
	})
	return list
}
