package simulator

import "time"

// Bind binds a device to a user without a request, and returns it with what it
// lacked: an id of 19 digits, a machine code, the time. If a device has no id
// and its machine is bound already, Bind returns the bound device. A device with
// an id replaces the one of that id: so a test lets a user bind a device again.
func (s *Simulator) Bind(userID string, d Device) Device {
	bound, _ := s.state.bind(userID, d, s.cfg.Clock())
	return bound
}

// Devices returns the devices that are bound to a user now, oldest first.
func (s *Simulator) Devices(userID string) []Device { return s.state.devicesOf(userID) }

// AddLock gives a user a lock, or moves the end of a lock that the user holds.
func (s *Simulator) AddLock(userID, lockID string, expires time.Time) {
	s.state.addLock(userID, lockID, expires)
}

// Locks returns the locks that a user holds and that have not expired, the
// first to expire first.
func (s *Simulator) Locks(userID string) []Lock { return s.state.locksOf(userID, s.cfg.Clock()) }

// Stats returns what has happened so far.
func (s *Simulator) Stats() Stats {
	st := s.log.snapshot()
	st.Quotas = s.quotas.snapshot(s.cfg.Clock().UnixNano())
	return st
}

// Log returns the last n requests that have ended, with or without an answer, oldest
// first. If n is not positive, it returns all that it remembers, 1000 at most.
func (s *Simulator) Log(n int) []Entry { return s.log.last(n) }
