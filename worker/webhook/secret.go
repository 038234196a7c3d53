package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SecretSource knows the secret that webhooks are signed with. It is safe for
// concurrent use.
type SecretSource interface {
	// Secret returns the secret as it is now, in one of the two forms that the
	// package comment gives. The error never holds it.
	Secret() (string, error)
}

// secret is a value that nothing prints. A string type with a String method
// would not do: fmt does not call the methods of unexported fields, and shows
// what is in them.
type secret func() string

var _ SecretSource = secret(nil)

// Secret implements SecretSource.
func (s secret) Secret() (string, error) { return s(), nil }

// StaticSecret is a secret that never changes: whsec_<base64>, or any other line
// of text. The key has to have at least 16 bytes.
func StaticSecret(value string) (SecretSource, error) {
	if _, err := keyOf(value); err != nil {
		return nil, fmt.Errorf("the webhook's secret %w", err)
	}
	return secret(func() string { return value }), nil
}

// SecretFile is a secret in a file, in the forms of StaticSecret. It is read for
// every webhook, so that a change counts from the next one on. Line breaks at
// its end do not matter, as in a shell's $(cat file).
func SecretFile(path string) (SecretSource, error) {
	f := secretFile(path)
	// A wrong path should be known at the start and not with the first batch.
	if _, _, err := readSecret(f); err != nil {
		return nil, err
	}
	return f, nil
}

// secretFile has no cache: webhooks are rare, and no change can be missed.
type secretFile string

var _ SecretSource = secretFile("")

// maxSecretFile is beyond any secret, and keeps a wrong path from being read
// into memory.
const maxSecretFile = 4 << 10

// Secret implements SecretSource.
func (f secretFile) Secret() (string, error) {
	content, err := f.read()
	if err == nil {
		content = strings.TrimRight(content, "\r\n")
		_, err = keyOf(content)
	}
	if err != nil {
		return "", fmt.Errorf("the webhook's secret file %s %w", string(f), err)
	}
	return content, nil
}

// read's errors continue a sentence that names the file.
func (f secretFile) read() (string, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return "", unreadable(err)
	}
	if !info.Mode().IsRegular() { // a pipe can be read but once
		return "", errors.New("is not a regular file; want one that can be read for every webhook")
	}
	file, err := os.Open(string(f))
	if err != nil {
		return "", unreadable(err)
	}
	defer file.Close() //nolint:errcheck // only read
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil {
		return "", unreadable(err)
	}
	if len(content) > maxSecretFile {
		return "", fmt.Errorf("is larger than %d bytes; want one secret and nothing else", maxSecretFile)
	}
	return string(content), nil
}

func unreadable(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		err = pathErr.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

func readSecret(source SecretSource) (value string, key []byte, err error) {
	if value, err = source.Secret(); err != nil {
		return "", nil, err
	}
	if key, err = keyOf(value); err != nil {
		return "", nil, fmt.Errorf("the webhook's secret %w", err)
	}
	return value, key, nil
}

const (
	secretPrefix = "whsec_"
	minKey       = 16 // bytes
)

// keyOf returns the key that a secret stands for. Its errors continue a sentence
// that names the secret, and do not show it.
func keyOf(secret string) ([]byte, error) {
	switch {
	case !utf8.ValidString(secret), strings.ContainsFunc(secret, unicode.IsControl):
		return nil, errors.New("is not one line of text; want whsec_<base64> where the key is binary")
	case strings.TrimSpace(secret) != secret:
		return nil, errors.New("begins or ends with white space; want none around it")
	}
	key := []byte(secret)
	if encoded, ok := strings.CutPrefix(secret, secretPrefix); ok {
		var err error
		if key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, errors.New("has whsec_ before what is not base64; want standard base64, with its padding")
		}
	}
	if len(key) < minKey {
		return nil, fmt.Errorf("has %d bytes; want at least %d, such as whsec_ and what `openssl rand -base64 24` prints", len(key), minKey)
	}
	return key, nil
}
