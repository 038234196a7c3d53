package koodrive

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/kooworker/kooworker/internal/httpx"
)

// SecretSource knows one secret. It is safe for concurrent use.
type SecretSource interface {
	// Secret returns the secret as it is now. The error never holds it.
	Secret() (string, error)
	// Forget drops what is cached: the secret was refused.
	Forget()
	// Redact replaces the secret and its pieces in a text.
	Redact(text string) string
}

var (
	_ SecretSource = (*httpx.Secret)(nil)
	_ SecretSource = (*httpx.SecretFile)(nil)
)

// hiddenFromFmt is embedded in types that hold secrets. The alias keeps the
// embedded field unexported.
type hiddenFromFmt = httpx.HiddenFromFmt

// StaticSecret is a secret that never changes.
func StaticSecret(value string) (SecretSource, error) {
	if err := checkSecretOnly(value); err != nil {
		return nil, fmt.Errorf("the secret %w", err)
	}
	return httpx.NewSecret(value), nil
}

// SecretFile is a secret in a file. The file is read again when it changes, and
// after every refusal. White space around the secret does not matter.
func SecretFile(path string) (SecretSource, error) {
	return openSecretFile("the secret file", path)
}

// maxSecretFile is beyond any token.
const maxSecretFile = 64 << 10

func openSecretFile(what, path string) (SecretSource, error) {
	file, err := httpx.OpenSecretFile(what, path, maxSecretFile, func(content string) (string, error) {
		value := strings.TrimSpace(content)
		return value, checkSecretOnly(value)
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// checkSecretOnly also refuses a secret with something around it.
func checkSecretOnly(value string) error {
	switch {
	case strings.IndexAny(value, `{["`) == 0 && json.Valid([]byte(value)):
		return errors.New("is JSON; want the secret that is in it, without quotes")
	case len(value) > 7 && strings.EqualFold(value[:6], "bearer") && strings.ContainsAny(value[6:7], " +"):
		return errors.New("begins with Bearer; want the token alone, because the token format (--token-format) adds the rest")
	}
	return checkSecret(value)
}

// checkSecret refuses a secret that no header can carry. Its errors continue a
// sentence that names the secret, and do not show it.
func checkSecret(value string) error {
	if value == "" {
		return errors.New("is empty")
	}
	if !httpx.PrintableASCII(value) {
		return errors.New("has a control character or one beyond ASCII; want printable ASCII")
	}
	return nil
}
