package simulator

// CanonicalRequest lets the vendor's published vector be checked.
var CanonicalRequest = canonicalRequest

// QuotaCounters is how many users or kinds of call the first quota remembers.
func QuotaCounters(s *Simulator) int { return len(s.quotas.quotas[0].counters) }
