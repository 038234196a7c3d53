// Package koodrive is the client of the KooDrive backup API. It unbinds devices,
// releases backup locks and lists what a user has bound. It gives every answer,
// and every failure to get one, a [tasks.Reason].
//
// It owns the HTTP exchange, the credentials, the estimate of the server's clock
// and the table of what answers mean. It does not own waiting: it sends a call
// again only if the credential was refused, once and with a fresh one. Otherwise the
// caller decides whether and when to try again.
//
// Package worker builds the client, and package jobs calls it. It imports tasks and
// internal/httpx. It must not import asynq, Redis or any other package of the worker.
//
// # The life of a call
//
//  1. The ids are checked. An id that could change the meaning of the URL or of
//     a header is [tasks.Invalid] and never leaves the process.
//  2. The call waits for one of Config.Concurrency slots.
//  3. X-Date is set a little behind the server's clock as far as it is known
//     (clock.go), and the [Authorizer] sets Authorization. If there is no
//     credential, the call ends here.
//  4. One HTTP exchange, within Config.CallTimeout, body included. Redirects
//     are not followed: the credential must not travel.
//  5. The Date of the answer corrects the estimate of the server's clock.
//  6. The body is read as KooDrive's envelope, as the gateway's, or as
//     neither (envelope.go), and the first rule of the table that matches
//     gives the reason (table.go).
//  7. If the credential was refused, it is renewed, and steps 2 to 6 happen
//     once more.
//  8. Unless it is a success, whose text is shown nowhere, the message is
//     stripped of every secret and made fit for one line of a log (redact.go).
//
// # Done twice
//
// If a connection breaks after the request was written, nobody knows whether
// KooDrive did the work. The answer is then [tasks.Network] or [tasks.TimedOut].
// If KooDrive did it, the next try finds the device or lock [tasks.Gone], which
// counts as done. For the same reason every call may be sent again on a new
// connection if an idle one turns out to be closed. net/http does that by itself,
// and the caller does not see it.
//
// # Secrets
//
// No token, secret or signature appears in an error, in an [Answer], or in
// what fmt prints of any type of this package.
package koodrive
