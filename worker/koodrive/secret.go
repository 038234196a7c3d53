package koodrive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// SecretSource knows one secret. It is safe for concurrent use.
type SecretSource interface {
	// Secret returns the secret as it is now. The error never holds it.
	Secret() (string, error)
	// Forget drops what is cached: the secret was refused.
	Forget()
	// Redact replaces the secret in a text.
	Redact(text string) string
}

// secret is a value that nothing prints. A string type with a String method
// would not do: fmt does not call the methods of unexported fields, and shows
// what is in them.
type secret func() string

var _ SecretSource = secret(nil)

func conceal(value string) secret { return func() string { return value } }

func (s secret) Secret() (string, error)   { return s(), nil }
func (s secret) Forget()                   {}
func (s secret) Redact(text string) string { return replaceSecrets(text, s()) }

// opaque keeps fmt from walking through a value that holds secrets, keys or
// locks. Without it even %s of a pointer shows everything behind it.
type opaque struct{}

// Format prints a placeholder, whatever the verb.
func (opaque) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "(not shown)") }

// StaticSecret is a secret that never changes.
func StaticSecret(value string) (SecretSource, error) {
	if err := checkSecret("the secret", value); err != nil {
		return nil, err
	}
	return conceal(value), nil
}

// SecretFile is a secret in a file. The file is read again when it changes, and
// after every refusal. White space around the secret does not matter.
func SecretFile(path string) (SecretSource, error) {
	return openSecretFile("the secret file", path)
}

// secretFile reads the file again when its modification time, its size or its
// identity changes; the last covers the atomic renames of Kubernetes and of
// careful people.
type secretFile struct {
	opaque
	what, path string

	mu    sync.Mutex
	seen  os.FileInfo // nil: read it, whatever it looks like
	value secret
}

// maxSecretFile is beyond any token, and keeps a wrong path from being read
// into memory.
const maxSecretFile = 64 << 10

// openSecretFile reads the file once, so that a wrong path is known at the
// start and not with the first task.
func openSecretFile(what, path string) (SecretSource, error) {
	f := &secretFile{what: what, path: path, value: conceal("")}
	if _, err := f.Secret(); err != nil {
		return nil, err
	}
	return f, nil
}

// Secret implements SecretSource.
func (f *secretFile) Secret() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := os.Stat(f.path)
	if err != nil {
		return "", f.failed(err)
	}
	if f.seen != nil && os.SameFile(f.seen, now) && f.seen.Size() == now.Size() && f.seen.ModTime().Equal(now.ModTime()) {
		return f.value(), nil
	}
	value, info, err := readSecretFile(f.path)
	if err != nil {
		return "", f.failed(err)
	}
	if err := checkSecret(f.what+" "+f.path, value); err != nil {
		return "", f.failed(err)
	}
	f.seen, f.value = info, conceal(value)
	return value, nil
}

// failed makes the next call read the file again, and says which file it is.
func (f *secretFile) failed(err error) error {
	f.seen = nil
	if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
		return fmt.Errorf("%s %s cannot be read: %w", f.what, f.path, pathErr.Err)
	}
	return err
}

// Forget implements SecretSource.
func (f *secretFile) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = nil
}

// Redact implements SecretSource.
func (f *secretFile) Redact(text string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return replaceSecrets(text, f.value())
}

// readSecretFile returns what the file looked like before it was read: if it is
// written to meanwhile, it looks different the next time and is read again.
func readSecretFile(path string) (string, os.FileInfo, error) {
	file, err := os.Open(path) //nolint:gosec // the path is the operator's
	if err != nil {
		return "", nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	info, err := file.Stat()
	if err != nil {
		return "", nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil {
		return "", nil, err
	}
	if len(content) > maxSecretFile {
		return "", nil, fmt.Errorf("%s is larger than %d bytes; want one secret and nothing else", path, maxSecretFile)
	}
	return strings.TrimSpace(string(content)), info, nil
}

// checkSecret refuses what no header can carry. The error does not show it.
func checkSecret(what, value string) error {
	if value == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if !printableASCII(value) {
		return fmt.Errorf("%s has a control character or one beyond ASCII; want printable ASCII", what)
	}
	return nil
}

func printableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
