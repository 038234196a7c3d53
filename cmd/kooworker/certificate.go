package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificateFiles are a certificate and its key. They are read again when one of them has changed:
// certificates are renewed while the process runs. If they cannot be read then, as between
// the writing of the two, the ones of before stay.
type certificateFiles struct {
	cert, key string

	mu       sync.Mutex
	modified [2]time.Time
	current  *tls.Certificate
}

// get is for tls.Config.GetCertificate.
func (f *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var modified [2]time.Time
	for i, path := range []string{f.cert, f.key} {
		if info, err := os.Stat(path); err == nil {
			modified[i] = info.ModTime()
		}
	}
	if f.current != nil && modified == f.modified {
		return f.current, nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err == nil {
		f.current, f.modified = &pair, modified
	}
	if f.current == nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	return f.current, nil
}
