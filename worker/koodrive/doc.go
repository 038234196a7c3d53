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
// internal/httpx, and OpenTelemetry's API. It must not import asynq, Redis or any other package of the worker.
//
// # The life of a call
//
//  1. The ids are checked. An id that could change the meaning of the URL or of
//     a header is [tasks.Invalid] and never leaves the process.
//  2. The call waits for one of Config.Concurrency slots.
//  3. X-Date is set a little behind the server's clock as far as it is known
//     (clock.go), and the [Authorizer] sets Authorization. If there is no
//     credential, the call ends here.
//  4. If the context has a span, the exchange gets one below it, and Config.TraceHeader
//     tells the server of the trace (span.go).
//  5. One HTTP exchange, within Config.CallTimeout, body included. Redirects
//     are not followed: the credential must not travel.
//  6. The Date of the answer corrects the estimate of the server's clock.
//  7. The body is read as KooDrive's envelope, as the gateway's, or as
//     neither (envelope.go), and the first rule of the table that matches
//     gives the reason (table.go). What the answer says of the quota is read
//     as well (limit.go, ratelimit.go).
//  8. If the credential was refused, it is renewed, and steps 2 to 7 happen
//     once more.
//  9. Unless it is a success, whose text is shown nowhere, the message is
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
// # Quotas
//
// The client does not keep to a quota. It reads what an answer says of one, and the
// caller decides what to do. [Answer].Limit holds what these say:
//
//   - the text of a refusal by the gateway: policy user over ratelimit,limit:100,time:1 minute
//   - X-Apig-RateLimit-api, -user, -app, -ip and -api-allenv: remain:9,limit:10,time:10 second.
//     The gateway sends them if it is asked; see [Config].QuotaHeaders.
//   - RateLimit-Policy and RateLimit, and RateLimit-Limit, -Remaining and -Reset, as the
//     IETF's drafts have them
//   - X-RateLimit-Limit, -Remaining and -Reset
//
// Headers are read from every answer, unless another server than KooDrive's gave it
// ([tasks.Misrouted]). Of several limits the one counts that allows fewest calls a
// second, and of equal ones the one that has fewest calls left.
//
// X-RateLimit-Limit alone says nothing of a window, so it names no limit. Only what is
// left is known then, and for how long. If another header or the text has the same
// number with a window, the two are taken for the same limit.
//
// What makes no sense is ignored: a number that is not positive or too large, an
// unknown unit, a header of more than a kilobyte. It never makes a call fail.
//
// # Secrets
//
// No token, secret or signature appears in an error, in an [Answer], or in
// what fmt prints of any type of this package.
package koodrive
