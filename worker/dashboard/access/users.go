package access

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"
)

// maxPassword is how many bytes of a password bcrypt takes.
const maxPassword = 72

// Hash returns a line of a file of users. The role may be left out by those who read it: then it
// is viewer.
func Hash(name, password string, role Role) (string, error) {
	switch {
	case name == "" || strings.ContainsAny(name, ":#\r\n") || strings.TrimSpace(name) != name:
		return "", fmt.Errorf("user %q: want a name without colon, # and blanks around it", name)
	case password == "":
		return "", errors.New("the password is empty")
	case len(password) > maxPassword:
		return "", fmt.Errorf("the password has %d bytes; want at most %d, because bcrypt takes no more", len(password), maxPassword)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return name + ":" + string(hash) + ":" + role.String(), nil
}

// Users are the users of a file: a line "name:hash" for each, as htpasswd -B writes it, or
// "name:hash:operator". Users without a role are viewers. Empty lines and lines that begin
// with # are left out.
//
// The file is read again when it has changed. If it cannot be read then, the users stay
// those of before, and the log says why.
type Users struct {
	path string
	log  *zap.Logger

	mu     sync.Mutex
	seen   fileState
	failed bool // it could not be read again, and the log says so
	users  map[string]account
	// passed are digests of the logins that have passed the check, which costs a tenth of a second
	// and is asked for with every request.
	passed map[[sha256.Size]byte]bool
	salt   [sha256.Size]byte

	checks chan struct{} // bounds how many checks run at a time, so that guesses cannot take all cores
}

type account struct {
	hash string
	role Role
}

type fileState struct {
	modified time.Time
	size     int64
}

// nobody is compared with the password of a user that does not exist, so that the time does not
// tell who exists. It is the hash of a random text.
const nobody = "$2a$10$smF8nPpYFB/ELdYXMI5VOekq2iihNKIGqmgXa09vSXATulmEnvYzO"

// OpenUsers reads a file of users.
func OpenUsers(path string, log *zap.Logger) (*Users, error) {
	const atATime = 2
	u := &Users{path: path, log: log, passed: make(map[[sha256.Size]byte]bool), checks: make(chan struct{}, atATime)}
	_, _ = rand.Read(u.salt[:]) // never fails
	state, err := u.state()
	if err != nil {
		return nil, err
	}
	if u.users, err = u.read(); err != nil {
		return nil, err
	}
	u.seen = state
	return u, nil
}

func (u *Users) state() (fileState, error) {
	info, err := os.Stat(u.path)
	if err != nil {
		return fileState{}, fmt.Errorf("file of users: %w", err)
	}
	return fileState{info.ModTime(), info.Size()}, nil
}

// read reads the file. Its errors never quote a line: that might be a password.
func (u *Users) read() (map[string]account, error) {
	file, err := os.Open(u.path)
	if err != nil {
		return nil, fmt.Errorf("file of users: %w", err)
	}
	defer func() { _ = file.Close() }()
	users := make(map[string]account)
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, a, err := parseUser(line)
		if err != nil {
			return nil, fmt.Errorf("file of users: line %d: %w; `kooworker hash-password NAME` prints a line", n, err)
		}
		if _, twice := users[name]; twice {
			return nil, fmt.Errorf("file of users: line %d: a second user of this name", n)
		}
		users[name] = a
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("file of users: %w", err)
	}
	if len(users) == 0 {
		return nil, errors.New("file of users: it has no users; `kooworker hash-password NAME` prints a line")
	}
	return users, nil
}

func parseUser(line string) (name string, a account, err error) {
	parts := strings.Split(line, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return "", a, errors.New("want name:hash or name:hash:role")
	}
	a.hash = parts[1]
	if _, err := bcrypt.Cost([]byte(a.hash)); err != nil {
		return "", a, errors.New("the hash is none of bcrypt, which begins with $2")
	}
	if len(parts) == 3 {
		switch parts[2] {
		case Viewer.String():
		case Operator.String():
			a.role = Operator
		default:
			return "", a, errors.New("the role is unknown; want viewer or operator")
		}
	}
	return parts[0], a, nil
}

// refresh reads the file again if it has changed.
func (u *Users) refresh() {
	state, err := u.state()
	if err == nil && state == u.seen {
		return
	}
	users := u.users
	if err == nil {
		users, err = u.read()
	}
	if err != nil {
		if !u.failed {
			u.log.Error("cannot read the users again; those of before stay", zap.Error(err))
		}
		u.failed = true
		return
	}
	u.failed = false
	u.seen, u.users = state, users
	clear(u.passed)
	u.log.Info("the file of users has been read again", zap.Int("users", len(users)))
}

// find returns the account of a user, and whether this login has passed before.
func (u *Users) find(name, password string) (a account, exists, passed bool, digest [sha256.Size]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refresh()
	a, exists = u.users[name]
	digest = sha256.Sum256([]byte(string(u.salt[:]) + a.hash + "\x00" + name + "\x00" + password))
	return a, exists, exists && u.passed[digest], digest
}

// errLogin does not say whether the name or the password is wrong.
var errLogin = errors.New("the user's name or the password is wrong")

// Check returns the user of a name and a password.
func (u *Users) Check(ctx context.Context, name, password string) (User, error) {
	a, exists, passed, digest := u.find(name, password)
	user := User{Name: name, Role: a.role}
	if passed {
		return user, nil
	}
	select {
	case u.checks <- struct{}{}:
		defer func() { <-u.checks }()
	case <-ctx.Done():
		return User{}, ctx.Err()
	}
	if !exists {
		a.hash = nobody
	}
	if bcrypt.CompareHashAndPassword([]byte(a.hash), []byte(password)) != nil || !exists {
		return User{}, errLogin
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	const most = 1000 // far more than there are users
	if len(u.passed) >= most {
		clear(u.passed)
	}
	u.passed[digest] = true
	return user, nil
}
