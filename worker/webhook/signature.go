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

// The headers of the specification, in the form that net/http gives them.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// Tolerance is what receivers commonly pass to Verify.
const Tolerance = 5 * time.Minute

// What Verify finds wrong with a webhook. Test for them with errors.Is.
var (
	// ErrMalformed: a header is missing, or it or the body is not what a Sender
	// would send.
	ErrMalformed = errors.New("malformed webhook")
	// ErrSignature: no signature is by this secret.
	ErrSignature = errors.New("no signature of the webhook is by this secret")
	// ErrStale: the signature is good, but the timestamp is too far from now.
	ErrStale = errors.New("the webhook's timestamp is out of tolerance")
)

// Verify is for receivers: it returns nil if a Sender with this secret made the
// request at now, give or take the tolerance. The body is to be as it was
// received, byte for byte. One good signature among several is enough. To
// compare them takes the same time whatever they are.
//
// A webhook that is verified may have been received before: its Webhook-Id
// tells.
//
// It returns ErrMalformed, ErrSignature or ErrStale, or another error where the
// secret is none.
func Verify(secret string, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	key, err := keyOf(secret)
	if err != nil {
		return fmt.Errorf("%s %w", secretName, err)
	}
	id, timestamp := header.Get(headerID), header.Get(headerTimestamp)
	if err := checkEvent(id, body); err != nil {
		return fmt.Errorf("%w: its %w", ErrMalformed, err)
	}
	// No sign: the text is what is signed, and +1 would be 1.
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

// sign returns a signature as it stands in the header.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
