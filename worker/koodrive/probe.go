package koodrive

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/kooworker/kooworker/internal/httpx"
	"github.com/kooworker/kooworker/tasks"
)

// Probe is what one harmless call tells of KooDrive, of the way there, and of the credential.
type Probe struct { //nolint:errname // it is an Answer, of which the same is said
	Answer
	// Server is the certificate of the server, nil without TLS and if TLS failed.
	Server *x509.Certificate
	// TLSVersion is the version of TLS, such as "TLS 1.3"; "" without TLS.
	TLSVersion string
	// CertificateProblem says why the server's certificate was refused; "" if it was not.
	CertificateProblem string
	// WrongHost reports whether the problem is that the certificate does not name the host of the
	// URL. CertificateNames are the names and addresses that it has.
	WrongHost        bool
	CertificateNames []string
	// Connected is the address of KooDrive, or of the proxy, to which there was a connection; "" if
	// there was none. Sent reports whether it could take the request: with https, TLS was agreed on.
	Connected string
	Sent      bool
	// Dated reports whether the answer had a Date.
	Dated bool
	// Ahead is by how much this machine's clock is before the server's clock, give or take
	// Within; less than 0 if it is behind.
	Ahead, Within time.Duration
	// RoundTrip is how long it took until the answer began, with the connection.
	RoundTrip time.Duration
}

// Probe asks for the devices of a user, as Ping does, and tells more of it. If the credential was
// refused and renewed, it tells of the second exchange.
func (c *Client) Probe(ctx context.Context, userID string) Probe {
	if a, ok := validateIDs("user id", userID); !ok {
		return Probe{Answer: a}
	}
	var p Probe
	var way way
	p.Answer = c.do(ctx, call{
		name: "list", method: http.MethodGet, path: "/device", route: "/device", userID: userID, limit: maxList,
		trace:   way.trace(),
		observe: func(sent time.Time, resp *http.Response, err error) { p = probe(sent, time.Now(), resp, err) },
		read:    func(json.RawMessage) error { return nil },
	})
	p.Connected, p.Sent = way.reached()
	return p
}

// way is how far an exchange has come. A connection may still be made when the exchange has ended.
type way struct {
	mu        sync.Mutex
	connected string
	sent      bool
}

func (w *way) set(connected string, sent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connected, w.sent = connected, sent
}

func (w *way) reached() (connected string, sent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connected, w.sent
}

func (w *way) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { w.set("", false) },
		ConnectDone: func(_, addr string, err error) {
			if _, sent := w.reached(); err == nil && !sent {
				w.set(addr, false)
			}
		},
		GotConn: func(info httptrace.GotConnInfo) { w.set(info.Conn.RemoteAddr().String(), true) },
	}
}

// probe describes an exchange.
func probe(sent, now time.Time, resp *http.Response, err error) Probe {
	p := Probe{RoundTrip: now.Sub(sent)}
	if err != nil {
		if refused, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			p.CertificateProblem = httpx.OneLine(refused.Err.Error())
		}
		if wrong, ok := errors.AsType[x509.HostnameError](err); ok {
			p.WrongHost = true
			for _, name := range wrong.Certificate.DNSNames {
				p.CertificateNames = append(p.CertificateNames, httpx.OneLine(name))
			}
			for _, ip := range wrong.Certificate.IPAddresses {
				p.CertificateNames = append(p.CertificateNames, ip.String())
			}
		}
		return p
	}
	if resp.TLS != nil {
		p.TLSVersion = tls.VersionName(resp.TLS.Version)
		if len(resp.TLS.PeerCertificates) > 0 {
			p.Server = resp.TLS.PeerCertificates[0]
		}
	}
	// Date is cut to the second, and was written at some moment of the round trip.
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		const half = time.Second / 2
		p.Dated, p.Within = true, p.RoundTrip/2+half
		p.Ahead = sent.Add(p.RoundTrip / 2).Sub(date.Add(half))
	}
	return p
}

// AcceptsCredential reports whether an answer shows that the credential is accepted: KooDrive
// itself has answered, and it is not about who is calling. It is false if that is not known.
func (p Probe) AcceptsCredential() bool {
	switch p.Reason {
	case tasks.OK, tasks.Gone, tasks.Invalid, tasks.Forbidden, tasks.Rejected:
		return p.Status != 0
	default:
		return false
	}
}
