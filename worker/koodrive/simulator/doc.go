// Package simulator stands in for the KooDrive backup API: an http.Handler
// with users, bound devices, backup locks, the checks of the gateway in front,
// and faults on demand.
//
// The demo and `kooworker simulator` serve it, and the tests of the client and
// of the worker are measured against it. It follows the vendor's API reference
// and never the client: it has its own wire structs and computes signatures
// with its own code, because a structure or a canonicalizer shared with the
// client would let both be wrong together and every test pass. For the same
// reason it must not import package koodrive, nor any other part of the worker;
// package answers, the catalogue both sides are held to, and the vocabulary are
// all that it may see of this module.
//
// # The life of a request
//
// A request is counted, throttled if Config.RateLimit says so, and shown to
// the fault script. A fault that answers in KooDrive's stead, or breaks the
// connection, ends it there: whoever is hit by an outage does not learn whether
// his credential was right. Any other request passes the checks in the order in
// which a gateway makes them: path, method, size, Authorization, X-User-Id,
// X-Date, parameters. What passes is carried out, and only then do the faults
// apply that spoil an answer to work that was done.
//
// # What the vendor does not say
//
// Where the reference is silent the simulator takes the choice that is hardest
// on a client: an expired lock can be neither renewed nor released, and a
// trailing slash makes a path unknown. The HTTP status of "resource doesn't
// exist" can be chosen with Config.GoneStatus. A user may bind any number of
// devices and hold several locks of one module.
package simulator
