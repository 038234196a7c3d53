package simulator

import (
	"maps"
	"net"
	"net/http"
	"strconv"
	"time"
)

// deliver sends an answer with what the fault adds to it, or breaks the connection as
// the kind of the fault says. Without an answer, it resets the connection. The answer
// gets a Date header by the server's clock, now, unless the fault sets one.
func deliver(w http.ResponseWriter, rep *reply, f Fault, now time.Time) {
	if rep == nil {
		reset(w)
		return
	}
	header := w.Header()
	maps.Copy(header, rep.header)
	maps.Copy(header, f.Header)
	if f.RetryAfter > 0 {
		seconds := int64((f.RetryAfter + time.Second - 1) / time.Second)
		header.Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	if header.Get("Date") == "" {
		header.Set("Date", now.UTC().Format(http.TimeFormat))
	}
	body := rep.body
	switch f.Kind {
	case KindTruncate:
		header.Set("Content-Length", strconv.Itoa(len(body)))
		send(w, rep.status, body[:len(body)/2])
		// Without the flush, the panic would drop the half as well.
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case KindTruncateClean:
		body = body[:len(body)/2]
	}
	send(w, rep.status, body)
}

// send writes the status and the body. It ignores that the caller may have gone.
func send(w http.ResponseWriter, status int, body []byte) {
	w.WriteHeader(status)
	if len(body) > 0 {
		_, _ = w.Write(body) //nolint:gosec // an API of JSON, whose faults answer what the operator wrote
	}
}

// reset drops the connection so that the caller sees a TCP reset. With HTTP/2
// one connection carries many requests; there a panic resets the stream instead.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	// Closing a TLS connection would send a farewell first, so only the TCP
	// connection below it is closed.
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = wrapped.NetConn()
	}
	// Without lingering, close discards what is unsent and resets.
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
