//go:build chaos && linux

package main

import (
	"testing"
	"time"
)

// Redis is away for longer than a lease.
func TestChaos_LogOfALongOutage(t *testing.T) {
	for name, leave := range outages(t) {
		t.Run(name, func(t *testing.T) { testLogOfOutage(t, leave, 35*time.Second) })
	}
}
