// Package webhook tells an HTTP endpoint of the operator that a batch of tasks
// is complete, as the Standard Webhooks specification says
// (https://www.standardwebhooks.com, version 1.0.0).
//
// It owns one HTTP request, its signature, and what the answer means. It does not own
// waiting: it sends nothing twice. The worker calls it from a task of kind
// batch:webhook, so that retries, backoff and dead letters are those of any task. It
// must not import asynq, Redis or any sibling of this package; it knows the
// vocabulary of package tasks, package httpx and the standard library.
//
// # On the wire
//
//	POST <Config.URL>
//	Content-Type: application/json
//	User-Agent: kooworker
//	Webhook-Id: batch-complete-2026-01-31
//	Webhook-Timestamp: 1769852130
//	Webhook-Signature: v1,<base64 of HMAC-SHA256(secret, id.timestamp.body)>
//
// The timestamp is that of the attempt. The id is that of the event: it stays the
// same however often the webhook is sent. After a broken connection or a timeout
// nobody knows whether the receiver did its work. So a receiver may see an id more
// than once and has to ignore what it has seen. [Verify] is for receivers.
//
// The signature covers the id, the timestamp and the body, with full stops between
// them. The specification warns of ids that have full stops themselves: an attacker
// who has a webhook could cut the signed text in another place and would have three
// other parts with a good signature. The ID of a batch may have full stops. So the
// body has to begin with a brace and the id may not have one, which leaves a single
// place to cut. [Sender.Send] and [Verify] both check that.
//
// The sender speaks HTTP/1.1 even to servers that know HTTP/2: for a request now
// and then one connection is enough, and a dead connection fails one request only.
//
// # The secret
//
// The secret is either whsec_<base64>, whose decoded bytes are the key, or any
// other text, whose own bytes are the key. Some receivers' libraries also decode a
// secret without the prefix; use the first form with them.
//
// To change the secret without losing a webhook, let the receiver accept the old
// and the new one for a while. Then write the new one into the file of
// [SecretFile].
//
// # What is not shown
//
// No [Answer], no error, and nothing that fmt prints of a type of this package holds
// the secret or the path or query of the URL: these too may be what authorizes the
// sender. An answer's body that might hold one of them is not shown (excerpt.go).
package webhook
