package httpx

import "math/bits"

// window holds the last bytes of a text, up to Fragment of them, in lower case and
// without the optional ones.
type window struct {
	packed uint64 // the last byte lowest
	count  int    // of all bytes so far
}

// last returns the last bytes as one number.
func (w *window) last(length int) uint64 { return w.packed & (1<<(8*length) - 1) }

// push adds a byte, unless it is optional.
func (w *window) push(char byte) bool {
	switch {
	case optional(char):
		return false
	case 'A' <= char && char <= 'Z':
		char += 'a' - 'A'
	}
	w.packed, w.count = w.packed<<8|uint64(char), w.count+1
	return true
}

// optional reports whether a byte may be left out of a text, or put into it,
// without anyone noticing: white space and the plus sign for it, the backslash
// before another byte, the semicolon that ends an escape or does not. A zero byte
// is in no secret.
func optional(char byte) bool {
	switch char {
	case ' ', '\t', '\n', '\v', '\f', '\r', '+', '\\', ';', 0:
		return true
	default:
		return false
	}
}

// pieces are all pieces of secrets that have one length, as windows have them.
type pieces struct {
	length int
	set    numberSet
}

// numberSet is a set of numbers other than 0. It is a hash table with open
// addressing. A map would take several times as long to fill, and to look up what
// it does not hold, which is nearly always.
type numberSet struct {
	slots []uint64 // at least half of them are 0, which is free; their number is a power of two
	count int
}

func (s *numberSet) add(n uint64) {
	if 2*s.count >= len(s.slots) {
		full := s.slots
		*s = numberSet{slots: make([]uint64, max(16, 4*len(full)))}
		for _, old := range full {
			if old != 0 {
				s.add(old)
			}
		}
	}
	if slot := s.slot(n); *slot == 0 {
		*slot, s.count = n, s.count+1
	}
}

func (s *numberSet) has(n uint64) bool { return *s.slot(n) == n }

// slot returns where a number is, or the free slot where it would be.
func (s *numberSet) slot(n uint64) *uint64 {
	const scatter = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	last := uint64(len(s.slots) - 1)   //nolint:gosec // there is a slot
	for i := n * scatter >> bits.LeadingZeros64(last); ; i = (i + 1) & last {
		if slot := &s.slots[i]; *slot == 0 || *slot == n {
			return slot
		}
	}
}
