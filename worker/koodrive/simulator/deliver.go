package simulator

import (
	"maps"
	"net"
	"net/http"
	"strconv"
)

// deliver sends an answer, or breaks the connection as the kind of fault says.
func deliver(w http.ResponseWriter, rep *reply, kind string) {
	switch kind {
	case KindResetBefore, KindResetAfter:
		reset(w)
	case KindTruncate:
		header := w.Header()
		maps.Copy(header, rep.header)
		header.Set("Content-Length", strconv.Itoa(len(rep.body)))
		w.WriteHeader(rep.status)
		write(w, rep.body[:len(rep.body)/2])
		// Without a flush the panic would drop the first half too.
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case KindTruncateClean:
		maps.Copy(w.Header(), rep.header)
		w.WriteHeader(rep.status)
		write(w, rep.body[:len(rep.body)/2])
	default:
		maps.Copy(w.Header(), rep.header)
		w.WriteHeader(rep.status)
		write(w, rep.body)
	}
}

// write sends a body. It does not matter if the caller is gone.
func write(w http.ResponseWriter, body []byte) {
	if len(body) > 0 {
		_, _ = w.Write(body) //nolint:gosec // an API of JSON, whose faults answer what the operator wrote
	}
}

// reset drops the connection so that the caller sees a TCP reset. Under HTTP/2
// many requests share a connection. There the panic resets the stream instead.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	// Closing a TLS connection would send a close notification first. So the TCP
	// connection below it is closed.
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = wrapped.NetConn()
	}
	// With a linger time of zero, Close discards unsent data and resets.
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
