package httpx

import (
	"cmp"
	"slices"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

const (
	// Fragment is the length in bytes from which a piece of a secret is treated
	// as the secret: what is missing can be guessed, or pieced together.
	Fragment = 8
	// fewest is how many bytes of a fragment are looked for at least. Some may be
	// optional, and if fewer than these are left, they are in many innocent texts.
	fewest = 4
)

// Redactor finds secrets in the text of a stranger, who may have been sent them
// and may send them back in any form. It finds
//
//   - every piece of Fragment bytes, and a shorter secret as a whole,
//   - in any case,
//   - with or without bytes that are optional, such as white space,
//   - with any of its characters escaped as escapeAt describes.
//
// To prepare a redactor takes time in proportion to the secrets. To read a text
// takes time in proportion to the text, however long the secrets are. A Redactor
// is safe for concurrent use.
type Redactor struct {
	HiddenFromFmt
	pieces  []pieces
	literal []string // secrets of optional bytes only, which are found as they are
}

// NewRedactor prepares a redactor of these secrets. An empty one is ignored.
func NewRedactor(secrets ...string) *Redactor {
	r := &Redactor{}
	for _, secret := range secrets {
		r.add(secret)
		// A secret may itself look escaped. If it is escaped once more, unescape
		// undoes both.
		if strings.ContainsAny(secret, escapeMarks) {
			var plain []byte
			for char := range unescape(secret) {
				plain = append(plain, char)
			}
			r.add(string(plain))
		}
	}
	return r
}

// add adds the pieces of a secret.
func (r *Redactor) add(secret string) {
	var (
		w      window
		counts [Fragment]int // of the window, before each of the last bytes
	)
	for i := range len(secret) {
		counts[i%Fragment] = w.count
		w.push(secret[i])
		if w.count >= Fragment {
			r.addPiece(w, Fragment)
		}
		// Fragment bytes of the secret are a shorter piece if some are optional.
		if n := w.count - counts[(i+1)%Fragment]; i+1 >= Fragment && n >= fewest {
			r.addPiece(w, n)
		}
	}
	switch {
	case w.count == 0 && secret != "":
		r.literal = append(r.literal, secret)
	case 0 < w.count && w.count < Fragment:
		r.addPiece(w, w.count)
	}
}

// addPiece adds the last bytes of a window.
func (r *Redactor) addPiece(w window, length int) {
	i := slices.IndexFunc(r.pieces, func(p pieces) bool { return p.length == length })
	if i < 0 {
		i = len(r.pieces)
		r.pieces = append(r.pieces, pieces{length: length})
	}
	r.pieces[i].set.add(w.last(length))
}

// Redact replaces the secrets and their pieces in a text.
func (r *Redactor) Redact(text string) string {
	for _, secret := range r.literal {
		text = strings.ReplaceAll(text, secret, Redacted)
	}
	var b strings.Builder
	done := 0
	for _, found := range r.find(text) {
		b.WriteString(text[done:found.start])
		b.WriteString(Redacted)
		done = found.end
	}
	if done == 0 {
		return text
	}
	b.WriteString(text[done:])
	return b.String()
}

// Finds reports whether a text holds a secret or a piece of one.
func (r *Redactor) Finds(text string) bool {
	return len(r.find(text)) > 0 ||
		slices.ContainsFunc(r.literal, func(secret string) bool { return strings.Contains(text, secret) })
}

// span is a part of a text.
type span struct{ start, end int }

// find returns the parts of a text that hold a piece, from first to last. They
// neither overlap nor touch.
func (r *Redactor) find(text string) []span {
	raw := matcher{pieces: r.pieces}
	for i := range len(text) {
		raw.next(text[i], span{i, i + 1})
	}
	if !strings.ContainsAny(text, escapeMarks) {
		return raw.found
	}
	plain := matcher{pieces: r.pieces}
	for char, part := range unescape(text) {
		plain.next(char, part)
	}
	all := append(raw.found, plain.found...)
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.end, b.end) })
	var joined []span
	for _, s := range all {
		joined = appendSpan(joined, s)
	}
	return joined
}

// matcher reads a text byte by byte.
type matcher struct {
	pieces []pieces
	window window
	starts [Fragment]int // where in the text the bytes of the window begin
	found  []span
}

// next takes a byte, and the part of the text that it stands for.
func (m *matcher) next(char byte, part span) {
	if !m.window.push(char) {
		return
	}
	n := m.window.count
	m.starts[n%Fragment] = part.start
	for i := range m.pieces {
		p := &m.pieces[i]
		if n >= p.length && p.set.has(m.window.last(p.length)) {
			m.found = appendSpan(m.found, span{m.starts[(n-p.length+1)%Fragment], part.end})
		}
	}
}

// appendSpan appends a part that ends behind the others, and joins it with those
// that it overlaps or touches.
func appendSpan(spans []span, s span) []span {
	for len(spans) > 0 && s.start <= spans[len(spans)-1].end {
		s.start = min(s.start, spans[len(spans)-1].start)
		spans = spans[:len(spans)-1]
	}
	return append(spans, s)
}
