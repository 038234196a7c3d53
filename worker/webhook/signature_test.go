package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/quick"
	"time"
)

// testSignature is the signature of testID, testTime and testBody with testSecret,
// whose key is the bytes 0 to 23. This command makes it:
//
//	printf %s 'batch:webhook::2026-01-31.1769852130.{"type":"batch.completed"}' |
//	openssl dgst -sha256 -mac HMAC -binary -macopt \
//	hexkey:000102030405060708090a0b0c0d0e0f1011121314151617 | base64
const testSignature = "v1,Xo4dvwcdg8oi7iDzB0suZsLhO88Oc9An+4JifsaNOgc="

func TestSign_KnownSignatures(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		secret, id string
		timestamp  string
		body, want string
	}{
		"ours": {testSecret, testID, strconv.Itoa(testTime), testBody, testSignature},
		// Made by the same command with -hmac 'correct horse battery staple'
		// instead of -mac and -macopt.
		"text": {
			"correct horse battery staple", testID, strconv.Itoa(testTime), testBody,
			"v1,Q9HiYQrIox6yVZBMRJ20C7G1ZfVmo6exBolqxSFpkfM=",
		},
		// From the tests of the specification's own libraries.
		"specification": {
			"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`,
			"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
	} {
		key, err := keyOf(tc.secret)
		if err != nil {
			t.Fatal(err)
		}
		if got := sign(key, tc.id, tc.timestamp, []byte(tc.body)); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}

// The test computes signatures after the specification, not with our code.
func TestSign_OtherComputation(t *testing.T) {
	t.Parallel()
	same := func(key []byte, id string, timestamp uint32, body []byte) bool {
		stamp := strconv.FormatUint(uint64(timestamp), 10)
		block := make([]byte, sha256.BlockSize)
		if len(key) > sha256.BlockSize {
			sum := sha256.Sum256(key)
			key = sum[:]
		}
		copy(block, key)
		inner, outer := sha256.New(), sha256.New()
		for _, b := range block {
			inner.Write([]byte{b ^ 0x36})
			outer.Write([]byte{b ^ 0x5c})
		}
		inner.Write([]byte(strings.Join([]string{id, stamp, string(body)}, ".")))
		outer.Write(inner.Sum(nil))
		return sign(key, id, stamp, body) == "v1,"+base64.StdEncoding.EncodeToString(outer.Sum(nil))
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
}

// headers returns those of a good webhook, with changes: name, value, name, value.
func headers(changes ...string) http.Header {
	h := http.Header{}
	h.Set("webhook-id", testID)
	h.Set("webhook-timestamp", strconv.Itoa(testTime))
	h.Set("webhook-signature", testSignature)
	for pair := range slices.Chunk(changes, 2) {
		h.Set(pair[0], pair[1])
	}
	return h
}

func TestVerify(t *testing.T) {
	t.Parallel()
	const other = "v1,Q9HiYQrIox6yVZBMRJ20C7G1ZfVmo6exBolqxSFpkfM="
	now := time.Unix(testTime, 0)
	for name, tc := range map[string]struct {
		header http.Header
		body   string
		now    time.Time
		want   error
	}{
		"good":           {headers(), testBody, now, nil},
		"late":           {headers(), testBody, now.Add(time.Minute), nil},
		"early":          {headers(), testBody, now.Add(-time.Minute), nil},
		"too late":       {headers(), testBody, now.Add(time.Minute + 1), ErrStale},
		"too early":      {headers(), testBody, now.Add(-time.Minute - 1), ErrStale},
		"last of three":  {headers("webhook-signature", other+" v1a,x  "+testSignature), testBody, now, nil},
		"first of two":   {headers("webhook-signature", testSignature+" "+other), testBody, now, nil},
		"other":          {headers("webhook-signature", other), testBody, now, ErrSignature},
		"none":           {headers("webhook-signature", ""), testBody, now, ErrSignature},
		"bare":           {headers("webhook-signature", testSignature[3:]), testBody, now, ErrSignature},
		"other version":  {headers("webhook-signature", "v2"+testSignature[2:]), testBody, now, ErrSignature},
		"cut off":        {headers("webhook-signature", testSignature[:20]), testBody, now, ErrSignature},
		"body":           {headers(), testBody + " ", now, ErrSignature},
		"empty body":     {headers(), "", now, ErrMalformed},
		"id":             {headers("webhook-id", testID+"x"), testBody, now, ErrSignature},
		"no id":          {headers("webhook-id", ""), testBody, now, ErrMalformed},
		"timestamp":      {headers("webhook-timestamp", "1769852131"), testBody, now, ErrSignature},
		"no timestamp":   {headers("webhook-timestamp", ""), testBody, now, ErrMalformed},
		"signed time":    {headers("webhook-timestamp", "+1769852130"), testBody, now, ErrMalformed},
		"time overflows": {headers("webhook-timestamp", "99999999999999999999"), testBody, now, ErrMalformed},
		"no headers":     {http.Header{}, testBody, now, ErrMalformed},
	} {
		if err := Verify(testSecret, tc.header, []byte(tc.body), tc.now, time.Minute); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if err := Verify("short", headers(), []byte(testBody), now, time.Minute); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("a malformed secret: got %v, want another error", err)
	}
}

// A signature is accepted only for the parts that were signed, even if the id and the
// body are full of full stops and numbers.
func TestVerify_CutElsewhere(t *testing.T) {
	t.Parallel()
	const id, timestamp, body = "a.1769852131.b", "1769852130", `{"x":".1769852129.{}"}`
	key, err := keyOf(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(id+"."+timestamp+"."+body, ".")
	accepted := 0
	for i := 1; i < len(parts)-1; i++ {
		h := headers("webhook-id", strings.Join(parts[:i], "."), "webhook-timestamp", parts[i],
			"webhook-signature", sign(key, id, timestamp, []byte(body)))
		if Verify(testSecret, h, []byte(strings.Join(parts[i+1:], ".")), time.Unix(testTime, 0), time.Minute) == nil {
			accepted++
		}
	}
	if accepted != 1 {
		t.Errorf("accepted in %d forms, want 1", accepted)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(testID, strconv.Itoa(testTime), testSignature, []byte(testBody))
	f.Add("a.1", "+1", "v1, v1a,x", []byte("{"))
	key, err := keyOf(testSecret)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		h := http.Header{headerID: {id}, headerTimestamp: {timestamp}, headerSignature: {signature}}
		err := Verify(testSecret, h, body, time.Unix(testTime, 0), Tolerance)
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "." + string(body)))
		good := strings.Contains(signature, base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		if err == nil && !good {
			t.Errorf("accepted %q %q %q %q, want only what was signed", id, timestamp, signature, body)
		}
		if errors.Is(err, ErrStale) && !good {
			t.Error("got ErrStale for a foreign signature, want ErrSignature")
		}
	})
}
