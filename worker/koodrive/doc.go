// Package koodrive is the client of the KooDrive backup API: it unbinds
// devices, releases backup locks, lists what a user has bound, and says of
// every answer, or of its absence, which [tasks.Reason] it stands for.
//
// It owns the HTTP exchange, the credentials, the idea of the server's clock
// and the table of what answers mean. It does not own waiting: apart from one
// renewal of a refused credential it tries nothing twice, and whether and when
// to try again is the caller's business. The worker's pipeline and the doctor
// command call it. It must not import asynq, Redis or any sibling of this
// package; of ours it knows the vocabulary of package tasks, and package httpx.
//
// # The life of a call
//
//  1. The ids are checked: what could change the meaning of a URL or of a
//     header is [tasks.Invalid] and never leaves the process.
//  2. The call waits for one of Config.Concurrency slots.
//  3. X-Date is set a little behind the server's clock as far as it is known
//     (clock.go), and the [Authorizer] sets Authorization. A credential that
//     cannot be had ends the call here.
//  4. One HTTP exchange, within Config.CallTimeout, body included. Redirects
//     are not followed: the credential must not travel.
//  5. The Date of the answer corrects the idea of the server's clock.
//  6. The body is read as KooDrive's envelope, as the gateway's, or as
//     neither (envelope.go), and the first rule of the table that matches
//     gives the reason (table.go).
//  7. Where the credential was refused it is renewed, and steps 2 to 6 happen
//     once more.
//  8. Unless it is a success, whose text is shown nowhere, the message is
//     stripped of every secret and made fit for one line of a log (redact.go).
//
// # Done twice
//
// A connection that breaks after the request was written leaves open whether
// KooDrive did the work. The answer is then [tasks.Network] or
// [tasks.TimedOut]; if it did, the next try finds the device or lock
// [tasks.Gone], which counts as done. For the same reason every call may be
// sent again on a new connection when an idle one turns out to be closed;
// net/http does that by itself and the caller does not see it.
//
// # Secrets
//
// No token, secret or signature appears in an error, in an [Answer], or in
// what fmt prints of any type of this package.
package koodrive
