package httpx

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// HiddenFromFmt is embedded in a type that holds secrets, keys or locks. It keeps
// fmt from printing the fields of that type: without it even %s of a pointer
// shows everything behind the pointer.
type HiddenFromFmt struct{}

// Format prints a placeholder, whatever the verb.
func (HiddenFromFmt) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "(not shown)") }

// Secret is a value that nothing prints. It is in functions because fmt shows only
// the address of a function. A string type with a String method would not do:
// fmt does not call the methods of unexported fields, and shows what is in them.
type Secret struct {
	value    func() string
	redactor func() *Redactor // prepared when it is first needed
}

// NewSecret hides a value.
func NewSecret(value string) *Secret {
	return &Secret{
		value:    func() string { return value },
		redactor: sync.OnceValue(func() *Redactor { return NewRedactor(value) }),
	}
}

// Value returns the value.
func (s *Secret) Value() string { return s.value() }

// Secret returns the value. The error is always nil.
func (s *Secret) Secret() (string, error) { return s.value(), nil }

// Forget does nothing: the value never changes.
func (s *Secret) Forget() {}

// Redact replaces the value and its pieces in a text.
func (s *Secret) Redact(text string) string { return s.redactor().Redact(text) }

// SecretFile is a secret in a file. It is safe for concurrent use.
//
// The file is read again when its modification time, its size or its identity
// changes, and after Forget. The identity changes when the file is replaced by a
// rename, as Kubernetes does it.
type SecretFile struct {
	HiddenFromFmt
	what, path string
	limit      int64
	parse      func(content string) (secret string, err error)

	mu    sync.Mutex
	seen  os.FileInfo // nil: read the file, whatever it looks like
	value *Secret
}

// OpenSecretFile returns the secret in a file. It reads the file once, so that a
// wrong path is known at the start and not with the first task.
//
// what names the file in errors, such as "the token file". A file with more than
// limit bytes is not read: its path is probably wrong. parse cuts the secret out
// of the content and checks it; its error continues a sentence that names the
// file and does not hold the secret.
func OpenSecretFile(what, path string, limit int64, parse func(content string) (secret string, err error)) (*SecretFile, error) {
	f := &SecretFile{what: what, path: path, limit: limit, parse: parse, value: NewSecret("")}
	if _, err := f.Secret(); err != nil {
		return nil, err
	}
	return f, nil
}

// Secret returns the secret as it is now. The error never holds it.
func (f *SecretFile) Secret() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, err := f.refresh()
	if err != nil {
		f.seen = nil // the next call reads the file again
		return "", fmt.Errorf("%s %s %w", f.what, f.path, err)
	}
	return value, nil
}

// Forget makes the next Secret read the file again: the secret was refused.
func (f *SecretFile) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = nil
}

// Redact replaces the secret that was read last, and its pieces, in a text.
func (f *SecretFile) Redact(text string) string {
	f.mu.Lock()
	value := f.value
	f.mu.Unlock()
	return value.Redact(text)
}

// refresh reads the file unless it looks as it did when it was last read.
func (f *SecretFile) refresh() (string, error) {
	now, err := os.Stat(f.path)
	if err != nil {
		return "", unreadable(err)
	}
	if f.seen != nil && os.SameFile(f.seen, now) && f.seen.Size() == now.Size() && f.seen.ModTime().Equal(now.ModTime()) {
		return f.value.Value(), nil
	}
	content, info, err := f.read()
	if err != nil {
		return "", err
	}
	value, err := f.parse(content)
	if err != nil {
		return "", err
	}
	f.seen, f.value = info, NewSecret(value)
	return value, nil
}

// read returns the content, and what the file looked like before it was read: if
// it is written to meanwhile, it looks different the next time and is read again.
func (f *SecretFile) read() (string, os.FileInfo, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return "", nil, unreadable(err)
	}
	defer file.Close() //nolint:errcheck // only read
	info, err := file.Stat()
	if err != nil {
		return "", nil, unreadable(err)
	}
	content, err := io.ReadAll(io.LimitReader(file, f.limit+1))
	if err != nil {
		return "", nil, unreadable(err)
	}
	if int64(len(content)) > f.limit {
		return "", nil, fmt.Errorf("is larger than %d bytes; want one secret and nothing else", f.limit)
	}
	return string(content), info, nil
}

// unreadable leaves out the path, which the sentence already names.
func unreadable(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		err = pathErr.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}
