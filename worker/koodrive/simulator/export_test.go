package simulator

// CanonicalRequest lets the vendor's published vector be checked.
var CanonicalRequest = canonicalRequest
