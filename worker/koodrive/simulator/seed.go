package simulator

import "time"

// Bind binds a device to a user without a request, and returns it with what it
// lacked: an id of 19 digits, a machine code, the time. A device without id
// whose machine is bound already is returned as it is; one with an id replaces
// the device of that id, which is how a test lets a user bind anew.
func (s *Simulator) Bind(userID string, d Device) Device {
	bound, _ := s.state.bind(userID, d, s.cfg.Clock())
	return bound
}

// Devices returns the devices that are bound to a user now, oldest first.
func (s *Simulator) Devices(userID string) []Device { return s.state.devicesOf(userID) }

// TakeLock takes a lock of full life for a user without a request, and returns
// its id. The module is usually 100 (folder), 101 (album) or 102 (address
// book).
func (s *Simulator) TakeLock(userID, module string) (lockID string) {
	return s.state.takeLock(userID, module, s.cfg.Clock().Add(lockLife))
}

// AddLock puts a lock of a given id and end into the state, or moves its end.
func (s *Simulator) AddLock(userID, lockID string, expires time.Time) {
	s.state.addLock(userID, lockID, expires)
}

// Locks returns the locks that a user holds and that have not expired, the
// first to expire first.
func (s *Simulator) Locks(userID string) []Lock { return s.state.locksOf(userID, s.cfg.Clock()) }

// Stats returns what has happened so far.
func (s *Simulator) Stats() Stats { return s.log.snapshot() }

// Log returns the last n requests that were answered, or left without an
// answer, oldest first; all that are remembered where n is not positive.
func (s *Simulator) Log(n int) []Entry { return s.log.last(n) }
