package httpx

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// CheckURL parses a URL that credentials are sent to, and checks what holds for
// every such URL. Its scheme is https; http is allowed to this machine (127.0.0.0/8,
// ::1, localhost), and to any other one if insecure is set.
//
// what names the URL in errors, and form is how it should look, such as
// "https://host[:port]". The errors do not show the URL, which may hold a
// password or a token.
func CheckURL(what, form, raw string, insecure bool) (*url.URL, error) {
	want := "; want " + form
	if raw == "" {
		return nil, errors.New(what + " is missing" + want)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New(what + " is not a URL" + want)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New(what + " has neither the scheme https nor http" + want)
	case u.Hostname() == "":
		return nil, errors.New(what + " has no host" + want)
	case !PrintableASCII(u.Host):
		return nil, errors.New(what + " has a host beyond ASCII; want its xn-- form") // the form that goes on the wire, and is signed
	case u.Scheme == "http" && !insecure && !loopback(u.Hostname()):
		return nil, errors.New(what + " is plain HTTP to another machine: what is sent would be readable on the way; want https, or allow insecure HTTP")
	}
	return u, nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// PrintableASCII reports whether a text has only printable characters of ASCII,
// so that a header can carry it.
func PrintableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// ErrProxy is the error of a transport whose proxy setting is wrong.
var ErrProxy = errors.New("the environment's proxy (HTTPS_PROXY, HTTP_PROXY) is not a URL")

// HideProxy is for http.ProxyFromEnvironment, whose error quotes the setting and
// the password in it. The function that it returns fails with ErrProxy instead.
func HideProxy(find func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		u, err := find(req)
		if err != nil {
			return nil, ErrProxy
		}
		return u, nil
	}
}

// RedirectOrigin returns the scheme and host that a redirect leads to, and "" if
// the answer is no redirect. The rest of the URL may hold a secret.
func RedirectOrigin(resp *http.Response) string {
	if !IsRedirect(resp.StatusCode) {
		return ""
	}
	u, err := resp.Location()
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// IsRedirect reports whether an HTTP status is in the 300s.
func IsRedirect(status int) bool { return status >= 300 && status <= 399 }
