package simulator

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"slices"
	"strings"
)

const signatureAlgorithm = "HMAC-SHA256"

// canonicalRequest spells a request in the one way that both sides sign,
// however the request was spelt on the wire. Headers are "name:value", sorted by
// name. The path must be one that url.URL.EscapedPath returns.
func canonicalRequest(method, escapedPath, rawQuery string, headers []string, signed string, body []byte) (string, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return "", errors.New("the query is not well escaped")
	}
	for _, values := range query {
		slices.Sort(values)
	}
	hash := sha256.Sum256(body)
	return strings.Join([]string{
		method,
		canonicalPath(escapedPath),
		spaceAsHex(query.Encode()),
		strings.Join(headers, "\n") + "\n", // the last one has its newline too
		signed,
		hex.EncodeToString(hash[:]),
	}, "\n"), nil
}

// canonicalPath encodes each segment afresh and ends with a slash, whether or
// not the path that was requested does.
func canonicalPath(escaped string) string {
	segments := strings.Split(strings.TrimSuffix(escaped, "/"), "/")
	for i, segment := range segments {
		plain, _ := url.PathUnescape(segment) // EscapedPath returns no malformed path
		segments[i] = spaceAsHex(url.QueryEscape(plain))
	}
	return strings.Join(segments, "/") + "/"
}

// spaceAsHex corrects the one difference between url.QueryEscape and the encoding
// that is signed, which leaves the unreserved characters of RFC 3986 alone and writes
// all others in upper-case hex: QueryEscape writes a space as a plus sign.
func spaceAsHex(queryEscaped string) string { return strings.ReplaceAll(queryEscaped, "+", "%20") }
