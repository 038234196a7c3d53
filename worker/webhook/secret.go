package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kooworker/kooworker/internal/httpx"
)

// SecretSource knows the secret that webhooks are signed with. It is safe for
// concurrent use.
type SecretSource interface {
	// Secret returns the secret as it is now, in one of the two forms that the
	// package comment gives. The error never holds it.
	Secret() (string, error)
}

// StaticSecret is a secret that never changes: whsec_<base64>, or any other line
// of text. The key has to have at least 16 bytes.
func StaticSecret(value string) (SecretSource, error) {
	if _, err := keyOf(value); err != nil {
		return nil, fmt.Errorf("%s %w", secretName, err)
	}
	return httpx.NewSecret(value), nil
}

// SecretFile is a secret in a file, in one of the forms of StaticSecret. The file is
// read for every webhook, so that a change counts from the next webhook on. Line
// breaks at its end do not matter, as in a shell's $(cat file).
func SecretFile(path string) (SecretSource, error) {
	f := secretFile{path: path}
	if err := f.checkRegular(); err != nil {
		return nil, err
	}
	var err error
	f.file, err = httpx.OpenSecretFile(secretFileName, path, maxSecretFile, func(content string) (string, error) {
		value := strings.TrimRight(content, "\r\n")
		_, err := keyOf(value)
		return value, err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// What secrets are called in errors.
const (
	secretName     = "the webhook's secret"      //nolint:gosec // a name, not a secret
	secretFileName = "the webhook's secret file" //nolint:gosec // a name, not a secret
)

// maxSecretFile is more bytes than any secret needs.
const maxSecretFile = 4 << 10

// secretFile reads the file every time: webhooks are rare, and so no change can
// be missed.
type secretFile struct {
	path string
	file *httpx.SecretFile
}

var (
	_ SecretSource = (*httpx.Secret)(nil)
	_ SecretSource = secretFile{}
)

// Secret implements SecretSource.
func (f secretFile) Secret() (string, error) {
	if err := f.checkRegular(); err != nil {
		return "", err
	}
	f.file.Forget()
	return f.file.Secret()
}

// checkRegular refuses a file that can be read only once, such as a pipe. It accepts
// a file that does not exist: reading it fails.
func (f secretFile) checkRegular() error {
	if info, err := os.Stat(f.path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s %s is not a regular file; want one that can be read for every webhook", secretFileName, f.path)
	}
	return nil
}

func readSecret(source SecretSource) (value string, key []byte, err error) {
	if value, err = source.Secret(); err != nil {
		return "", nil, err
	}
	if key, err = keyOf(value); err != nil {
		return "", nil, fmt.Errorf("%s %w", secretName, err)
	}
	return value, key, nil
}

const (
	secretPrefix = "whsec_"
	minKey       = 16 // bytes
)

// keyOf returns the key in a secret. Its errors continue a sentence that names the
// secret, and do not show it.
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
