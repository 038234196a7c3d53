package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The specification's headers, written as net/http writes them.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// Tolerance is what receivers commonly pass to Verify.
const Tolerance = 5 * time.Minute

// What Verify finds wrong with a webhook. Test for them with errors.Is.
var (
	// ErrMalformed means that a header is missing, or that a header or the body
	// is not what a Sender would send.
	ErrMalformed = errors.New("malformed webhook")
	// ErrSignature means that no signature was made with this secret.
	ErrSignature = errors.New("no signature of the webhook is by this secret")
	// ErrStale means that the signature is good but the timestamp is too far from
	// now.
	ErrStale = errors.New("the webhook's timestamp is out of tolerance")
)

// Verify is for receivers. It returns nil if a Sender with this secret made the
// request at now, give or take the tolerance. The body must be as it was received,
// byte for byte. One good signature among several is enough. Comparing takes the
// same time for every signature.
//
// A webhook that is verified may have been received before. Its Webhook-Id tells.
//
// Verify returns ErrMalformed, ErrSignature or ErrStale, or another error if the
// secret is not valid.
func Verify(secret string, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	key, err := keyOf(secret)
	if err != nil {
		return fmt.Errorf("%s %w", secretName, err)
	}
	id, timestamp := header.Get(headerID), header.Get(headerTimestamp)
	if err := checkEvent(id, body); err != nil {
		return fmt.Errorf("%w: its %w", ErrMalformed, err)
	}
	// The text itself is signed, so it may have no sign: +1 is not 1.
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || strings.ContainsAny(timestamp, "+-") {
		return fmt.Errorf("%w: its timestamp is malformed; want the seconds since 1970", ErrMalformed)
	}
	want, good := []byte(sign(key, id, timestamp, body)), false
	for signature := range strings.FieldsSeq(header.Get(headerSignature)) {
		good = hmac.Equal([]byte(signature), want) || good
	}
	if !good {
		return ErrSignature
	}
	if now.Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return ErrStale
	}
	return nil
}

// sign returns a signature as it is written in the header.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
