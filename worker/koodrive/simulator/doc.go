// Package simulator stands in for the KooDrive backup API: an http.Handler
// with users, bound devices, backup locks, the checks of the gateway in front,
// quotas, and faults on demand.
//
// The demo and `kooworker simulator` serve it, and the tests of the client and of the
// worker run against it. It follows the vendor's API reference and never the client:
// it has its own wire structs and computes signatures with its own code. If it shared
// a structure or a canonicalizer with the client, both could be wrong together while
// every test passes. For the same reason it must not import package koodrive, nor any
// other part of the worker. Of this module it may import only package answers, the
// catalogue that measures both sides, and the vocabulary.
//
// # The life of a request
//
// A request is counted, throttled if Config.RateLimit or a quota says so, and
// compared with the fault plan. A fault that answers instead of KooDrive, or breaks the
// connection, ends the request there: a client that is hit by an outage does not
// learn whether its credential was right. Any other request passes the checks in
// the order in which a gateway makes them: path, method, size, Authorization,
// X-User-Id, X-Date, parameters. A request that passes is performed. Only then do
// the faults apply that spoil the answer to a call that was performed.
//
// # Quotas
//
// The gateway grants so many calls in a time: as a token bucket, in fixed windows or
// in a sliding one. A Quota counts all calls together, or each kind of call or each user
// apart. Its limit may change at given times, and strangers may use up a part of it. By
// default it is silent: a call too many gets a 429 that names nothing. Quota.Tell lets
// it name its limit, as the vendor's gateway does or as others do. Quotas follow
// Config.Clock and have no goroutine, so that they work in virtual time.
//
// # What the vendor does not say
//
// If the reference is silent, the simulator takes the choice that is hardest on a
// client: an expired lock can be neither renewed nor released, and a trailing
// slash makes a path unknown. The HTTP status of "resource doesn't exist" can be
// chosen with Config.GoneStatus. A user may bind any number of devices and hold
// several locks of one module.
package simulator
