package koodrive

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// emptyBodyHash is the SHA-256 of an empty body: no call of this package has one.
const emptyBodyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// canonicalRequest returns the text that both sides derive from a request, and the
// names of the headers in it. The headers' names are in lower case.
func canonicalRequest(method, escapedPath, rawQuery string, headers map[string]string, bodyHash string) (text, signedHeaders string) {
	names := slices.Sorted(maps.Keys(headers))
	var lines strings.Builder
	for _, name := range names {
		lines.WriteString(name + ":" + strings.TrimSpace(headers[name]) + "\n")
	}
	signedHeaders = strings.Join(names, ";")
	return strings.Join([]string{
		method, canonicalURI(escapedPath), canonicalQuery(rawQuery), lines.String(), signedHeaders, bodyHash,
	}, "\n"), signedHeaders
}

// canonicalURI encodes each segment afresh and ends with a slash, which the
// URL on the wire need not have.
func canonicalURI(escapedPath string) string {
	segments := strings.Split(escapedPath, "/")
	for i, segment := range segments {
		plain, err := url.PathUnescape(segment)
		if err != nil {
			plain = segment
		}
		segments[i] = rfc3986(plain)
	}
	uri := strings.Join(segments, "/")
	if !strings.HasSuffix(uri, "/") {
		uri += "/"
	}
	return uri
}

// canonicalQuery sorts the parameters by name, then by value. A parameter without
// value gets an equals sign too.
func canonicalQuery(rawQuery string) string {
	if rawQuery == "" {
		return ""
	}
	var pairs []string
	for part := range strings.SplitSeq(rawQuery, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		pairs = append(pairs, queryPart(name)+"="+queryPart(value))
	}
	// Compare name and value apart: the equals sign sorts after the digits and
	// the hyphen, so that a parameter "a-b" would come before "a".
	slices.SortFunc(pairs, func(a, b string) int {
		aName, aValue, _ := strings.Cut(a, "=")
		bName, bValue, _ := strings.Cut(b, "=")
		if aName != bName {
			return strings.Compare(aName, bName)
		}
		return strings.Compare(aValue, bValue)
	})
	return strings.Join(pairs, "&")
}

func queryPart(raw string) string {
	plain, err := url.QueryUnescape(raw)
	if err != nil {
		plain = raw
	}
	return rfc3986(plain)
}

// rfc3986 escapes all but the unreserved characters of RFC 3986, with capital
// hex digits. net/url has nothing that does exactly this: PathEscape leaves
// characters such as $ and &, QueryEscape turns a space into a plus sign.
func rfc3986(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}
