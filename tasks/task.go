package tasks

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind is the wire name of a task's type. It is never derived from a Go name.
type Kind string

// The kinds of tasks.
const (
	KindDeviceUnbind Kind = "device:unbind"
	KindLockRelease  Kind = "lock:release"
	KindUserOffboard Kind = "user:offboard"
	KindLockSweep    Kind = "lock:sweep"
	KindBatchWebhook Kind = "batch:webhook"
)

// Kinds lists every kind, in the order people see them.
func Kinds() []Kind {
	return []Kind{KindDeviceUnbind, KindLockRelease, KindUserOffboard, KindLockSweep, KindBatchWebhook}
}

// The queues. Releases come before unbinds, since a user is waiting for the
// lock; see [QueueWeights].
const (
	QueueRelease    = "release"
	QueueUnbind     = "unbind"
	QueueOffboard   = "offboard"
	QueueSweep      = "sweep"
	QueueWebhook    = "webhook"
	QueueDeadLetter = "dead-letter"
)

// QueueWeights tells how often a worker looks into each queue first, relative
// to the others. No queue starves.
func QueueWeights() map[string]int {
	return map[string]int{QueueRelease: 6, QueueUnbind: 3, QueueOffboard: 2, QueueSweep: 2, QueueWebhook: 1, QueueDeadLetter: 1}
}

// MaxRetry is the retry limit that a producer gives to asynq. It is far above
// what the worker allows by itself: asynq archives a task that reaches its
// limit, and deletes what exceeds 9,999 archived tasks, so the worker must
// always be the one who decides.
const MaxRetry = 1000

// Timeout is the time that a producer lets asynq grant one run of a task. The
// worker's own limits are shorter, so that the worker decides what a late
// answer means and not asynq.
const Timeout = 30 * time.Minute

// Task is something to be done once at KooDrive. The set is closed: the types
// of this package are the only ones.
type Task interface {
	// Kind is the task's wire name.
	Kind() Kind
	// Queue is the queue the task waits in.
	Queue() string
	// User is the KooDrive user the task is about; "" if it is about none.
	User() string
	// Target is the id of the device or lock that is to go; "" where it is not
	// one of these.
	Target() string
	// Validate reports the first member that is not well formed, as a
	// *FieldError.
	Validate() error

	sealed()
}

// Identity is the asynq task ID of a task that was enqueued by itself:
// "<kind>:<user>:<target>". One task of an identity can be outstanding in a
// queue at a time; package enqueue says what becomes of a second. No target
// holds a colon, so the last colon separates it however the user id is written.
func Identity(t Task) string {
	return string(t.Kind()) + ":" + t.User() + ":" + t.Target()
}

// BatchIdentity is the asynq task ID of a task of a batch: "<batch>:<hash of
// kind, user and target>". Two batches that name one device both run, because
// each owes its own receipt; the second finds it already gone.
func BatchIdentity(batch string, t Task) string {
	sum := sha256.Sum256([]byte(string(t.Kind()) + "\x00" + t.User() + "\x00" + t.Target()))
	return batch + ":" + hex.EncodeToString(sum[:16])
}

// DeviceUnbind removes the binding between a user and a device.
type DeviceUnbind struct {
	// UserID is the KooDrive user: 1 to 128 visible ASCII characters.
	UserID string
	// DeviceID matches ^[A-Za-z0-9_-]{1,64}$. It is a string even where it
	// looks like a number.
	DeviceID string
}

// LockRelease releases a backup lock.
type LockRelease struct {
	// UserID is the KooDrive user: 1 to 128 visible ASCII characters.
	UserID string
	// LockID matches ^[A-Za-z0-9-]{1,64}(@[0-9]{1,8})?$; what follows the @
	// is the module that is backed up.
	LockID string
	// Evidence is why a sweep wants it released, zero for an order of somebody who
	// knows. The worker looks again first: a lock that was renewed since stays.
	Evidence SweepEvidence
}

// SweepEvidence is what a sweep has seen of a lock whose holder went away.
type SweepEvidence struct {
	// Source is where it has seen it. Empty: nowhere.
	Source Source
	// ExpiredAt is when the lock expired, to the millisecond.
	ExpiredAt time.Time
}

// Source is a place where it is known which locks there are.
type Source string

// The sources.
const (
	SourceLedger Source = "ledger" // package enqueue/locks
	SourceFile   Source = "file"
	SourceSQL    Source = "sql"
)

// Sources lists every source.
func Sources() []Source { return []Source{SourceLedger, SourceFile, SourceSQL} }

// UserOffboard removes every binding between a user and a device, and every
// backup lock of the user that the ledger knows, those that come meanwhile
// included: it becomes one DeviceUnbind for each device that KooDrive lists and
// one LockRelease for each lock, and is done when there are none.
type UserOffboard struct {
	// UserID is the KooDrive user: 1 to 128 visible ASCII characters.
	UserID string
}

// LockSweep looks for locks whose holder went away, and enqueues a LockRelease
// for each. A zero means the sweeper's default.
type LockSweep struct {
	// Source is where it looks. Empty: the ledger.
	Source Source
	// Grace is how long after its expiry a lock is still left alone.
	Grace time.Duration
	// Max is the most locks that one sweep releases.
	Max int64
	// MaxShare is the greatest share of all locks, 0 to 1, that may be stale: more
	// than that is taken for a mistake, and none is released.
	MaxShare float64
	// Force releases whatever is stale, in spite of Max and MaxShare.
	Force bool
}

// BatchWebhook tells the outside that a batch is complete. It is enqueued by
// the worker that sees it.
type BatchWebhook struct {
	// BatchID is the batch, as in Place.
	BatchID string
}

var (
	_ Task = DeviceUnbind{}
	_ Task = LockRelease{}
	_ Task = UserOffboard{}
	_ Task = LockSweep{}
	_ Task = BatchWebhook{}
)

// Kind returns KindDeviceUnbind.
func (DeviceUnbind) Kind() Kind { return KindDeviceUnbind }

// Queue returns QueueUnbind.
func (DeviceUnbind) Queue() string { return QueueUnbind }

// User returns the user's id.
func (t DeviceUnbind) User() string { return t.UserID }

// Target returns the device's id.
func (t DeviceUnbind) Target() string { return t.DeviceID }

func (DeviceUnbind) sealed() {}

// Kind returns KindLockRelease.
func (LockRelease) Kind() Kind { return KindLockRelease }

// Queue returns QueueRelease.
func (LockRelease) Queue() string { return QueueRelease }

// User returns the user's id.
func (t LockRelease) User() string { return t.UserID }

// Target returns the lock's id.
func (t LockRelease) Target() string { return t.LockID }

func (LockRelease) sealed() {}

// Kind returns KindUserOffboard.
func (UserOffboard) Kind() Kind { return KindUserOffboard }

// Queue returns QueueOffboard.
func (UserOffboard) Queue() string { return QueueOffboard }

// User returns the user's id.
func (t UserOffboard) User() string { return t.UserID }

// Target returns "": the user is all there is to name.
func (UserOffboard) Target() string { return "" }

func (UserOffboard) sealed() {}

// Kind returns KindLockSweep.
func (LockSweep) Kind() Kind { return KindLockSweep }

// Queue returns QueueSweep.
func (LockSweep) Queue() string { return QueueSweep }

// User returns "".
func (LockSweep) User() string { return "" }

// Target returns "".
func (LockSweep) Target() string { return "" }

func (LockSweep) sealed() {}

// Kind returns KindBatchWebhook.
func (BatchWebhook) Kind() Kind { return KindBatchWebhook }

// Queue returns QueueWebhook.
func (BatchWebhook) Queue() string { return QueueWebhook }

// User returns "".
func (BatchWebhook) User() string { return "" }

// Target returns the batch's id.
func (t BatchWebhook) Target() string { return t.BatchID }

func (BatchWebhook) sealed() {}

const maxUserID = 128

// KooDrive does not specify the format of its ids. These accept every example
// of the vendor's pages and nothing that could change the meaning of a URL or
// of a header. They are loops and not patterns because files of millions of ids
// come this way.

// validDevice: ^[A-Za-z0-9_-]{1,64}$.
func validDevice(s string) bool {
	return len(s) <= maxTarget && all(s, func(c byte) bool { return alphanumeric(c) || c == '_' || c == '-' })
}

// validLock: ^[A-Za-z0-9-]{1,64}(@[0-9]{1,8})?$.
func validLock(s string) bool {
	const maxModule = 8
	lock, module, hasModule := strings.Cut(s, "@")
	if hasModule && (len(module) > maxModule || !all(module, func(c byte) bool { return c >= '0' && c <= '9' })) {
		return false
	}
	return len(lock) <= maxTarget && all(lock, func(c byte) bool { return alphanumeric(c) || c == '-' })
}

const maxTarget = 64

// all reports whether s is not empty, and f holds for each byte.
func all(s string, f func(byte) bool) bool {
	for i := range len(s) {
		if !f(s[i]) {
			return false
		}
	}
	return s != ""
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// Validate implements Task.
func (t DeviceUnbind) Validate() error {
	if err := validateUserID(t.UserID); err != nil {
		return err
	}
	return validateID("device_id", t.DeviceID, validDevice,
		"1 to 64 letters, digits, hyphens or underscores")
}

// Validate implements Task.
func (t LockRelease) Validate() error {
	if err := validateUserID(t.UserID); err != nil {
		return err
	}
	if err := validateID("lock_id", t.LockID, validLock,
		"1 to 64 letters, digits or hyphens, and optionally @ with 1 to 8 digits"); err != nil {
		return err
	}
	switch {
	case t.Evidence == SweepEvidence{}:
		return nil
	case t.Evidence.Source == "":
		return &FieldError{Field: "source", Problem: "is missing, and expired_at is there"}
	case t.Evidence.ExpiredAt.IsZero():
		return &FieldError{Field: "expired_at", Problem: "is missing, and source is there"}
	default:
		return t.Evidence.Source.validate()
	}
}

func (s Source) validate() error {
	if !slices.Contains(Sources(), s) {
		return &FieldError{Field: "source", Problem: fmt.Sprintf("is %s; want one of %v", excerpt(string(s)), Sources())}
	}
	return nil
}

// Validate implements Task.
func (t LockSweep) Validate() error {
	switch {
	case t.Grace < 0:
		return &FieldError{Field: "grace", Problem: fmt.Sprintf("is %s; want 0 or more", t.Grace)}
	case t.Max < 0:
		return &FieldError{Field: "max", Problem: fmt.Sprintf("is %d; want 0 or more", t.Max)}
	case t.MaxShare < 0 || t.MaxShare > 1 || t.MaxShare != t.MaxShare:
		return &FieldError{Field: "max_share", Problem: fmt.Sprintf("is %g; want 0 to 1", t.MaxShare)}
	case t.Source != "":
		return t.Source.validate()
	}
	return nil
}

// Validate implements Task.
func (t UserOffboard) Validate() error { return validateUserID(t.UserID) }

// Validate implements Task.
func (t BatchWebhook) Validate() error { return ValidateBatchID(t.BatchID) }

// validateUserID allows what travels unchanged in an HTTP header and reads
// unambiguously in a log.
func validateUserID(s string) error {
	const want = "1 to 128 visible ASCII characters"
	if s == "" {
		return &FieldError{Field: "user_id", Problem: "is empty; want " + want}
	}
	if len(s) > maxUserID {
		return &FieldError{Field: "user_id", Problem: fmt.Sprintf("is %d bytes long; want %s", len(s), want)}
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return &FieldError{Field: "user_id", Problem: fmt.Sprintf("has the character 0x%02x at byte %d; want %s", s[i], i, want)}
		}
	}
	return nil
}

func validateID(field, s string, valid func(string) bool, want string) error {
	if s == "" {
		return &FieldError{Field: field, Problem: "is empty; want " + want}
	}
	if !valid(s) {
		return &FieldError{Field: field, Problem: fmt.Sprintf("is %s; want %s", excerpt(s), want)}
	}
	return nil
}

// excerpt quotes at most the first 80 bytes of a value that was refused.
func excerpt(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%+q… (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%+q", s)
}
