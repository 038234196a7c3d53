package simulator

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
)

const signatureAlgorithm = "HMAC-SHA256"

// canonicalRequest returns the text that both sides sign, however the request was
// written on the wire. Headers are "name:value", sorted by name.
func canonicalRequest(method, escapedPath, rawQuery string, headers []string, signed string, body []byte) (string, error) {
	path, err := canonicalPath(escapedPath)
	if err != nil {
		return "", err
	}
	query, err := canonicalQuery(rawQuery)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(body)
	return strings.Join([]string{
		method,
		path,
		query,
		strings.Join(headers, "\n") + "\n", // the last one has its newline too
		signed,
		hex.EncodeToString(hash[:]),
	}, "\n"), nil
}

// canonicalPath encodes each segment afresh and ends with a slash, even if the path
// that was requested does not.
func canonicalPath(escaped string) (string, error) {
	segments := strings.Split(escaped, "/")
	for i, segment := range segments {
		plain, err := url.PathUnescape(segment)
		if err != nil {
			return "", errors.New("the path is not well escaped")
		}
		segments[i] = escape(plain)
	}
	path := strings.Join(segments, "/")
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return path, nil
}

func canonicalQuery(raw string) (string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", errors.New("the query is not well escaped")
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range slices.Sorted(slices.Values(values[name])) {
			pairs = append(pairs, escape(name)+"="+escape(value))
		}
	}
	return strings.Join(pairs, "&"), nil
}

// escape encodes everything but the unreserved characters of RFC 3986, in
// upper-case hex. url.QueryEscape would write a space as a plus sign, and
// url.PathEscape would not encode some reserved characters.
func escape(s string) string {
	const upperHex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	return b.String()
}
