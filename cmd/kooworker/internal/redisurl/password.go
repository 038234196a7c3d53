package redisurl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
)

// maxPassword is the size of the largest file of a password. One that is larger is
// probably another file.
const maxPassword = 4096

// checkPasswordFile reads the file once, so that a wrong path is known at the start. A
// password in the URL as well is refused, because one of both would be ignored.
func (a Address) checkPasswordFile() error {
	if a.PasswordFile == "" {
		return nil
	}
	if u, err := url.Parse(a.URL); err == nil && u.User != nil {
		if _, twice := u.User.Password(); twice {
			return errors.New("--redis-password-file: --redis-url has a password too; want one of them")
		}
	}
	_, err := a.readPassword()
	return err
}

// credentials returns a function that reads the file for each new connection, so that a
// new password needs no restart. It is nil without a file.
func (a Address) credentials(user string) func(context.Context) (username, password string, err error) {
	if a.PasswordFile == "" {
		return nil
	}
	return func(context.Context) (string, string, error) {
		password, err := a.readPassword()
		return user, password, err
	}
}

// readPassword returns the content of the file without white space around it. Its errors
// do not hold the content.
func (a Address) readPassword() (string, error) {
	text, err := os.ReadFile(a.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("--redis-password-file: %w", err)
	}
	if len(text) > maxPassword {
		return "", fmt.Errorf("--redis-password-file: %s is larger than %d bytes; want one password and nothing else", a.PasswordFile, maxPassword)
	}
	password := strings.TrimSpace(string(text))
	if password == "" {
		return "", fmt.Errorf("--redis-password-file: %s is empty; want the password", a.PasswordFile)
	}
	return password, nil
}
