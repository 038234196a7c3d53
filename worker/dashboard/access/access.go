// Package access decides who may see the dashboard, and who may change something there.
//
// There are two roles. A viewer sees everything and changes nothing: whatever is not GET or
// HEAD answers 403. An operator acts. Who asks is known in one of three ways:
//
//   - a trusted proxy names the user in a header, and perhaps the user's groups. The header
//     counts only from the proxy's addresses;
//   - basic auth, with the bcrypt hashes of a file (see Users);
//   - with neither of them configured there is one user, an operator, and the dashboard may
//     listen on loopback only. Then only requests that name this machine's loopback are
//     answered, so that no website can reach it through a name of its own that leads there.
//
// No page works in a frame of another site, and a request that changes something is refused
// if it comes from a page of another site, also with valid credentials: browsers send basic
// auth and a proxy's cookie along with any request.
//
// The package owns the headers that all answers have in common. Package dashboard calls it.
// It imports nothing of this module.
package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// Role is what a user may do.
type Role int

// The roles.
const (
	Viewer Role = iota
	Operator
)

// String returns the role's name.
func (r Role) String() string {
	if r == Operator {
		return "operator"
	}
	return "viewer"
}

// User is who asks.
type User struct {
	Name string
	Role Role
}

// IsOperator reports whether the user may change something.
func (u User) IsOperator() bool { return u.Role == Operator }

// Proxy is a reverse proxy that has checked who asks.
type Proxy struct {
	// From are the addresses of the proxy. Empty: there is none.
	From []netip.Prefix
	// UserHeader has the user's name, and GroupsHeader the user's groups, separated by commas.
	UserHeader, GroupsHeader string
	// Operators are the users, and OperatorGroups the groups of users, that are operators. All
	// others are viewers.
	Operators, OperatorGroups []string
}

// Config says who has access.
type Config struct {
	// Users are those of basic auth; nil: there is no basic auth.
	Users *Users
	Proxy Proxy
	// Local is the name of the one user if there are neither Users nor a Proxy.
	Local string
	// External is the URL by which browsers reach the dashboard; nil: the one that they name.
	External *url.URL
	Logger   *zap.Logger
}

// Access is the door of the dashboard.
type Access struct {
	cfg    Config
	origin *http.CrossOriginProtection
}

// New returns an Access.
func New(cfg Config) (*Access, error) {
	a := &Access{cfg: cfg, origin: http.NewCrossOriginProtection()}
	if cfg.External != nil {
		if err := a.origin.AddTrustedOrigin(cfg.External.Scheme + "://" + cfg.External.Host); err != nil {
			return nil, fmt.Errorf("external URL: %w", err)
		}
	}
	if len(cfg.Proxy.From) > 0 && cfg.Proxy.UserHeader == "" {
		return nil, errors.New("a trusted proxy needs the header in which it names the user")
	}
	return a, nil
}

// IsOpen reports whether everybody who reaches the dashboard is an operator.
func (a *Access) IsOpen() bool { return a.cfg.Users == nil && len(a.cfg.Proxy.From) == 0 }

// CheckAddr returns an error if the dashboard must not listen on an address, because it asks
// nobody who they are.
func (a *Access) CheckAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return fmt.Errorf("%s: want HOST:PORT", addr)
	case !a.IsOpen() || isLoopback(host):
		return nil
	default:
		return errors.New("without credentials the dashboard listens on loopback only, such as 127.0.0.1:8090; to listen elsewhere give it --users-file, " +
			"a file with lines of `kooworker hash-password NAME`, or --trusted-proxy with the addresses of a proxy that names the user in a header")
	}
}

// IsLoopback reports whether an address, with its port, is one of this machine's loopback.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && isLoopback(host)
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// Handler is a handler that knows who asks.
type Handler func(w http.ResponseWriter, r *http.Request, user User)

// Guard lets those requests through to next that are allowed.
func (a *Access) Guard(next Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header(), r.TLS != nil)
		if a.IsOpen() && !isLoopback(hostOf(r.Host)) {
			refuse(w, http.StatusMisdirectedRequest, "this dashboard asks nobody who they are, so it answers only to 127.0.0.1, localhost and their like; "+
				"to reach it by another name start it with --users-file or --trusted-proxy")
			return
		}
		user, err := a.identify(r)
		switch {
		case errors.Is(err, context.Canceled):
			return
		case err != nil:
			if a.cfg.Users != nil {
				w.Header().Set("WWW-Authenticate", `Basic realm="kooworker", charset="UTF-8"`)
			}
			refuse(w, http.StatusUnauthorized, err.Error())
			return
		}
		if !isSafe(r.Method) {
			if err := a.checkOrigin(r); err != nil {
				a.cfg.Logger.Warn("a request from a page of another site is refused", zap.String("user", user.Name), zap.String("path", r.URL.Path), zap.Error(err))
				refuse(w, http.StatusForbidden, "this request comes from a page of another site, so it is refused; if that site is a proxy before this dashboard, start it with --external-url")
				return
			}
			if !user.IsOperator() {
				refuse(w, http.StatusForbidden, "you are a viewer, and only an operator may change something")
				return
			}
		}
		next(w, r, user)
	})
}

func isSafe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// checkOrigin returns an error if a page of another site has sent the request. Today's browsers
// say where a request comes from in Origin or Sec-Fetch-Site; older ones at least in Referer. What
// is no browser sends none of them, and nobody can lead it here.
func (a *Access) checkOrigin(r *http.Request) error {
	if err := a.origin.Check(r); err != nil {
		return err
	}
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" || r.Referer() == "" {
		return nil
	}
	from, err := url.Parse(r.Referer())
	if err == nil && (from.Host == r.Host || a.cfg.External != nil && from.Host == a.cfg.External.Host) {
		return nil
	}
	return errors.New("the referer is another site")
}

// identify returns who asks.
func (a *Access) identify(r *http.Request) (User, error) {
	if a.IsOpen() {
		return User{Name: a.cfg.Local, Role: Operator}, nil
	}
	if a.isProxy(r) {
		if user, ok := a.cfg.Proxy.user(r.Header); ok {
			return user, nil
		}
	}
	if a.cfg.Users == nil {
		return User{}, errors.New("the proxy before this dashboard has not said who you are")
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return User{}, errors.New("want a user's name and password")
	}
	user, err := a.cfg.Users.Check(r.Context(), name, password)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			a.cfg.Logger.Warn("a login is refused", zap.String("remote", r.RemoteAddr)) // the name might be a password
		}
		return User{}, err
	}
	return user, nil
}

// isProxy reports whether a request comes from the trusted proxy.
func (a *Access) isProxy(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && slices.ContainsFunc(a.cfg.Proxy.From, func(p netip.Prefix) bool { return p.Contains(from.Addr().Unmap()) })
}

// user is the one that the headers of the proxy name. A header that occurs twice says that the
// proxy has passed on what a stranger has sent: then it names nobody.
func (p Proxy) user(header http.Header) (User, bool) {
	names := header.Values(p.UserHeader)
	if len(names) != 1 || strings.TrimSpace(names[0]) == "" {
		return User{}, false
	}
	user := User{Name: strings.TrimSpace(names[0])}
	if slices.Contains(p.Operators, user.Name) {
		user.Role = Operator
	}
	if p.GroupsHeader != "" && len(header.Values(p.GroupsHeader)) == 1 {
		for group := range strings.SplitSeq(header.Get(p.GroupsHeader), ",") {
			if slices.Contains(p.OperatorGroups, strings.TrimSpace(group)) {
				user.Role = Operator
			}
		}
	}
	return user, true
}

func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// Policy is the Content-Security-Policy of our own pages: they load their own files, send forms
// to themselves, and nothing else. There is no inline script and no inline style.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// setHeaders sets the headers that all answers have. There is none that lets a page of another
// site read an answer (Access-Control-Allow-Origin).
func setHeaders(h http.Header, isTLS bool) {
	h.Set("Content-Security-Policy", Policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
	if isTLS {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text) //nolint:gosec // plain text, and no browser takes it for anything else: nosniff
}
