// Package overview reads what an operator asks first: what works, what waits, and what
// stands in the way.
//
// [Read] reads it from Redis, in about ten round trips of cheap commands: none of them costs
// Redis more the more tasks there are. [Overview.Causes] puts in words why work stands still
// or is lost, the gravest first, each with what to do about it. `kooworker status` shows both.
//
// [Shared] is for the metrics: of all processes over one Redis one reads the overview every
// ten seconds, and leaves it in Redis for the others. Its [Metrics] are answered from memory,
// so that a scrape costs Redis nothing. The process that reads it also keeps a [Sample] of it,
// for charts of the last hour, which [ReadSamples] returns.
//
// It owns the keys {kooworker:fleet}:overview and {kooworker:fleet}:overview:*, and reads those
// of asynq and of the packages that it imports. Package worker runs it, and commands and the
// dashboard read it. It changes nothing else, and imports no package that calls KooDrive.
package overview
