// Package simulator stands in for the KooDrive backup API: an http.Handler
// with users, bound devices, backup locks, the checks of the gateway in front,
// and faults on demand.
//
// The demo and `kooworker simulator` serve it, and the client and the worker are
// tested against it. It follows the vendor's API reference and never the client.
// It has its own wire structs and computes signatures with its own code: if it
// shared them with the client, both could be wrong together and every test would
// pass. For the same reason it must not import package koodrive, package httpx or
// any other part of the worker. Of this module it may import only package answers,
// which is the catalogue that both sides are measured against, and package tasks.
//
// # The life of a request
//
// A request is counted, and throttled if Config.RateLimit says so. Then the plan of
// faults is asked. If a fault answers in KooDrive's place, or breaks the
// connection, the request ends there: in an outage nobody learns whether the
// credential was right. Any other request passes the checks in the order in which
// a gateway makes them: path, method, size, Authorization, X-User-Id, X-Date,
// parameters. A request that passes is carried out. Faults that spoil the answer
// to work that was done apply after that.
//
// # What the vendor does not say
//
// Where the reference says nothing, the simulator does what is hardest for a
// client: an expired lock can be neither renewed nor released, and a trailing
// slash makes a path unknown. The HTTP status of "resource doesn't
// exist" can be chosen with Config.GoneStatus. A user may bind any number of
// devices and hold several locks of one module.
package simulator
