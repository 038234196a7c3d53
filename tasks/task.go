package tasks

import (
	"crypto/sha256"
	"encoding/base64"
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

// Kinds lists every kind, in the order in which people see them.
func Kinds() []Kind {
	return []Kind{KindDeviceUnbind, KindLockRelease, KindUserOffboard, KindLockSweep, KindBatchWebhook}
}

// Known reports whether k is one of Kinds.
func (k Kind) Known() bool { return slices.Contains(Kinds(), k) }

// MaxRetry is the retry limit that a producer gives to asynq. It is far above
// the worker's own limit, because the worker must decide when to give up: asynq
// archives a task that reaches the limit, and deletes archived tasks beyond 9,999.
const MaxRetry = 1000

// Timeout is the time limit for one run of a task that a producer gives to asynq.
// The worker's own limits are shorter, so that the worker and not asynq decides
// what a late answer means.
const Timeout = 30 * time.Minute

// Task is something to be done once at KooDrive. The set is closed: only the
// types of this package implement it.
type Task interface {
	// Kind is the task's wire name.
	Kind() Kind
	// Queue is the queue in which the task waits. Tasks of some queues wait in a lane
	// of it; see Lane.
	Queue() string
	// User is the KooDrive user of the task; "" if it has none.
	User() string
	// Target is the id of the device, lock or batch that the task is about; "" if
	// there is none.
	Target() string
	// Validate reports the first member that is not well formed, as a *FieldError.
	Validate() error

	sealed()
}

// Timed is a task that is to run at a time of its own. It stands for its task where tasks
// are enqueued by the million, as the lines of a file with times. What is encoded, and
// what a worker gets, is the task.
type Timed struct {
	Task

	// RunAt is the time from which the task may run.
	RunAt time.Time
}

// Identity is the asynq task ID of a task that was enqueued by itself:
// "<kind>:<user>:<target>". Only one task of an identity can be outstanding in a
// queue at a time; package enqueue says what becomes of a second one. A target
// contains no colon, so the last colon always separates it from the user's id.
func Identity(t Task) string {
	return string(t.Kind()) + ":" + t.User() + ":" + t.Target()
}

// BatchIdentity is the asynq task ID of a task of a batch: "<batch>:<hash of
// kind, user and target>". Two batches that name one device both run, because
// each owes its own receipt; the second finds it already gone. Redis keeps an ID three times,
// so the hash is in base64.
func BatchIdentity(batch string, t Task) string {
	sum := sha256.Sum256([]byte(string(t.Kind()) + "\x00" + t.User() + "\x00" + t.Target()))
	return batch + ":" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// DeviceUnbind removes the binding between a user and a device.
type DeviceUnbind struct {
	// UserID is the KooDrive user: 1 to 128 visible ASCII characters.
	UserID string
	// DeviceID matches ^[A-Za-z0-9_-]{1,64}$. It is a string even where it
	// looks like a number.
	DeviceID string
	// Listed says that KooDrive itself has listed this id. Then it is enough that
	// the wire can carry the id: 1 to 256 printable ASCII characters without
	// surrounding spaces, but not "." or "..".
	Listed bool
}

// LockRelease releases a backup lock.
type LockRelease struct {
	// UserID is the KooDrive user: 1 to 128 visible ASCII characters.
	UserID string
	// LockID matches ^[A-Za-z0-9-]{1,64}(@[0-9]{1,8})?$; what follows the @
	// is the module that is backed up.
	LockID string
	// Evidence is what the sweep has seen that enqueued this release. It is zero
	// for a release that somebody ordered. A release with evidence is checked again
	// before the call: a lock that was renewed since is not released.
	Evidence SweepEvidence
}

// SweepEvidence says where and how a sweep saw a stale lock.
type SweepEvidence struct {
	// Source is the source in which the sweep saw the lock. Empty: there was no
	// sweep.
	Source SourceKind
	// ExpiredAt is when the lock expired, to the millisecond.
	ExpiredAt time.Time
}

// SourceKind names a source of locks: the lock ledger, a file or a database.
type SourceKind string

// The sources.
const (
	SourceLedger SourceKind = "ledger" // package enqueue/locks
	SourceFile   SourceKind = "file"
	SourceSQL    SourceKind = "sql"
)

// Sources lists every source.
func Sources() []SourceKind { return []SourceKind{SourceLedger, SourceFile, SourceSQL} }

// UserOffboard removes every binding between a user and a device, and every backup
// lock of the user that the ledger knows. It enqueues one DeviceUnbind for each
// device that KooDrive lists and one LockRelease for each lock. It repeats this,
// since devices and locks may appear meanwhile, and is done when there are none left.
type UserOffboard struct {
	// UserID is the KooDrive user: 1 to 128 visible ASCII characters.
	UserID string
}

// LockSweep looks for locks whose holder went away, and enqueues a LockRelease
// for each. The zero value of a field stands for the worker's default.
type LockSweep struct {
	// Source is the source to sweep. Empty: the lock ledger.
	Source SourceKind
	// Grace is how long after its expiry a lock is still left alone.
	Grace time.Duration
	// Max is the greatest number of locks that one sweep releases.
	Max int64
	// MaxShare is the greatest share of all locks that may be stale, 0 to 1. A
	// greater share is taken for a mistake, and the sweep releases nothing. While
	// only a few locks are stale it does not count.
	MaxShare float64
	// Force releases all stale locks, whatever Max and MaxShare are.
	Force bool
}

// BatchWebhook tells an outside URL that a batch is complete. The worker that
// notices the completion enqueues it.
type BatchWebhook struct {
	// BatchID names the batch; see BatchRef.
	BatchID string
}

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

// Target returns "": an off-boarding names a user and nothing else.
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

// KooDrive does not specify the format of its ids. The functions below accept
// every example on the vendor's pages, and nothing that could change the meaning
// of a URL or of a header. They are loops and not regular expressions, because
// files of millions of ids pass through them.

// validDevice matches ^[A-Za-z0-9_-]{1,64}$.
func validDevice(s string) bool {
	return len(s) <= maxTarget && all(s, func(c byte) bool { return alphanumeric(c) || c == '_' || c == '-' })
}

// validListed reports whether an id can be one segment of a URL's path.
func validListed(s string) bool {
	const maxListed = 256
	return len(s) <= maxListed && all(s, func(c byte) bool { return c >= ' ' && c <= '~' }) &&
		strings.TrimSpace(s) == s && s != "." && s != ".."
}

// validLock matches ^[A-Za-z0-9-]{1,64}(@[0-9]{1,8})?$.
func validLock(s string) bool {
	const maxModule = 8
	lock, module, hasModule := strings.Cut(s, "@")
	if hasModule && (len(module) > maxModule || !all(module, func(c byte) bool { return c >= '0' && c <= '9' })) {
		return false
	}
	return len(lock) <= maxTarget && all(lock, func(c byte) bool { return alphanumeric(c) || c == '-' })
}

const maxTarget = 64

// all reports whether s is not empty and f holds for each of its bytes.
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
	if t.Listed {
		return validateID("device_id", t.DeviceID, validListed,
			"1 to 256 printable ASCII characters without surrounding spaces, and neither . nor ..")
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
		return &FieldError{Field: "source", Problem: "is missing, but expired_at is present"}
	case t.Evidence.ExpiredAt.IsZero():
		return &FieldError{Field: "expired_at", Problem: "is missing, but source is present"}
	default:
		return t.Evidence.Source.validate()
	}
}

func (s SourceKind) validate() error {
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

// validateUserID accepts only characters that an HTTP header carries unchanged
// and that cannot be misread in a log.
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

// excerpt quotes a value that was refused, or its first 80 bytes.
func excerpt(s string) string {
	const maxLen = 80
	if len(s) > maxLen {
		return fmt.Sprintf("%+q… (%d bytes)", s[:maxLen], len(s))
	}
	return fmt.Sprintf("%+q", s)
}
