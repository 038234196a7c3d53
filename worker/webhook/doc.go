// Package webhook tells an HTTP endpoint of the operator that a batch of tasks
// is complete, as the Standard Webhooks specification says
// (https://www.standardwebhooks.com, version 1.0.0).
//
// It owns one HTTP request, its signature, and what the answer means. It does
// not own waiting: it tries nothing twice. Package worker calls it from a task
// of kind batch:webhook, so that retries, backoff and dead letters are those of
// any task. It must not import asynq, Redis or any sibling of this package; it
// knows the vocabulary of package tasks, package httpx and the standard library.
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
// The timestamp is that of the attempt, the id that of the event: it stays the
// same however often the webhook is sent. A connection that breaks, or a time
// that runs out, leaves open whether the receiver did its work, so a receiver
// may see an id more than once and has to ignore what it has seen. [Verify] is
// for receivers.
//
// What is signed is the id, the timestamp and the body with full stops between
// them, and the specification warns of ids that have full stops themselves: who
// caught a webhook could cut it in another place and have three other parts
// under a good signature. A batch's ID may have them. So the body has to begin
// with a brace and the id may not have one, which leaves a single place to cut;
// [Sender.Send] and [Verify] both insist on it.
//
// HTTP/1.1 is spoken, also to those who know better: for a request now and then
// one connection is enough, and one that has died goes with its request.
//
// # The secret
//
// It is either whsec_<base64>, whose decoded bytes are the key, or any other
// text, whose own bytes are. Some libraries of receivers decode a secret without
// the prefix as well; give those the first form.
//
// To change it without losing a webhook, let the receiver accept the old and the
// new one for a while, then write the new one into the file of [SecretFile].
//
// # What is not shown
//
// Neither an [Answer], nor an error, nor what fmt prints of a type of this
// package holds the secret, or the path or query of the URL: either may be what
// authorizes the sender. An answer's body that might hold one of them is not
// quoted (excerpt.go).
package webhook
