package httpx

import (
	"cmp"
	"slices"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// Fragment is the length in bytes from which a piece of a secret is treated as
// the secret: what is missing can be guessed, or pieced together.
const Fragment = 8

// Redactor finds secrets in the text of a stranger, who may have been sent them
// and may send them back in any form. It finds every piece of Fragment bytes, and
// a shorter secret as a whole, in any of the views of a text; see viewsOf.
//
// To prepare a redactor takes time in proportion to the secrets. To read a text
// takes time in proportion to the text, however long the secrets are. A Redactor
// is safe for concurrent use.
type Redactor struct {
	HiddenFromFmt
	pieces  map[uint64]struct{} // the bytes of each piece, packed into a number
	lengths []int               // of the pieces
	// ends has a bit for each hash of a piece's last bytes, so that nearly every
	// place in a text needs no more than one look into the processor's nearest
	// cache. endLength is how many bytes are hashed.
	ends      [1024]uint64
	endLength int
}

// NewRedactor prepares a redactor of these secrets. An empty one is ignored.
func NewRedactor(secrets ...string) *Redactor {
	r := &Redactor{pieces: make(map[uint64]struct{}, len(strings.Join(secrets, ""))), endLength: 4}
	for _, secret := range secrets {
		for _, v := range viewsOf(secret) {
			r.add(v.bytes)
		}
	}
	for piece := range r.pieces {
		i, bit := r.endOf(piece)
		r.ends[i] |= bit
	}
	return r
}

// add adds the pieces of one view of a secret.
func (r *Redactor) add(secret []byte) {
	if len(secret) == 0 {
		return
	}
	length := min(len(secret), Fragment)
	if !slices.Contains(r.lengths, length) {
		r.lengths = append(r.lengths, length)
	}
	r.endLength = min(r.endLength, length)
	var packed uint64
	for i, char := range secret {
		if packed = packed<<8 | uint64(char); i+1 >= length {
			r.pieces[packed] = struct{}{}
		}
	}
}

// endOf returns the place in ends of a piece's last bytes.
func (r *Redactor) endOf(packed uint64) (i, bit uint64) {
	const scatter = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	hash := lastBytes(packed, r.endLength) * scatter >> 48
	return hash / 64, 1 << (hash % 64)
}

func lastBytes(packed uint64, length int) uint64 { return packed & (1<<(8*length) - 1) }

// Redact replaces the secrets and their pieces in a text.
func (r *Redactor) Redact(text string) string {
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
func (r *Redactor) Finds(text string) bool { return len(r.find(text)) > 0 }

// span is a part of a text.
type span struct{ start, end int }

// find returns the parts of a text that hold a piece, from first to last. They
// neither overlap nor touch.
func (r *Redactor) find(text string) []span {
	var found, joined []span
	for _, v := range viewsOf(text) {
		found = append(found, r.findIn(v)...)
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.end, b.end) })
	for _, s := range found {
		joined = appendSpan(joined, s)
	}
	return joined
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

// findIn returns the parts of the text behind one view.
func (r *Redactor) findIn(v view) (found []span) {
	var packed uint64 // the last bytes
	for i, char := range v.bytes {
		packed = packed<<8 | uint64(char)
		if n, bit := r.endOf(packed); r.ends[n]&bit == 0 {
			continue
		}
		for _, length := range r.lengths {
			if _, ok := r.pieces[lastBytes(packed, length)]; ok && i+1 >= length {
				found = appendSpan(found, v.original(i+1-length, i+1))
			}
		}
	}
	return found
}

// view is one way to read a text.
type view struct {
	bytes []byte
	parts []span // of the text that the bytes stand for; nil if they are those of the text
}

func newView(size int) view { return view{make([]byte, 0, size), make([]span, 0, size)} }

// append adds a byte unless it is optional.
func (v *view) append(char byte, part span) {
	if !optional(char) {
		v.bytes, v.parts = append(v.bytes, char), append(v.parts, part)
	}
}

// original returns the part of the text that some bytes stand for.
func (v *view) original(start, end int) span {
	if v.parts == nil {
		return span{start, end}
	}
	return span{v.parts[start].start, v.parts[end-1].end}
}

// viewsOf returns the views in which secrets and texts are compared, all in lower
// case: a text as it stands; without optional bytes; and without them and with its
// escapes undone, if it has any. A secret may look escaped, too.
func viewsOf(text string) []view {
	lowered, compact := make([]byte, len(text)), newView(len(text))
	for i := range len(text) {
		lowered[i] = lower(text[i])
		compact.append(lowered[i], span{i, i + 1})
	}
	views := []view{{bytes: lowered}, compact}
	if strings.ContainsAny(text, escapeMarks) {
		views = append(views, unescape(string(lowered)))
	}
	return views
}

// optional reports whether a byte may be left out of a text, or put into it, without
// anyone noticing: white space and the plus sign for it, the backslash before
// another byte, the semicolon that ends an escape or does not.
func optional(char byte) bool {
	switch char {
	case ' ', '\t', '\n', '\v', '\f', '\r', '+', '\\', ';':
		return true
	default:
		return false
	}
}

// lower is strings.ToLower for the letters of ASCII, which keep their length.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
