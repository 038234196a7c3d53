// Package gate is admission to the KooDrive API. It stands between the queue
// and the client: every call goes through [Gate.Do], which makes it, or makes
// it a little later, or refuses it.
//
// # The life of a call
//
//  1. The task joins the line. Whoever has waited longest goes first.
//  2. The throttle: KooDrive has asked for a rest, this worker or another one
//     of the fleet. A task that can sit it out stays, any other is refused at
//     once.
//  3. The breaker: while KooDrive is in trouble only probes go through, one at
//     a time, after growing pauses.
//  4. The number of calls in flight is below its limit.
//  5. The rate has a call left: this worker's share of the fleet's rate, or
//     less while traffic is being ramped up.
//  6. The call is made. Its answer is reported to the breaker, and closes the
//     gate when it is "too many requests".
//  7. The answer is the caller's, with one exception: one that says more about
//     the state of KooDrive than about the task, since the breaker is not
//     closed, comes back as a [Refusal].
//
// A task waits in line for Config.MaxWait at most; then it is refused, as it
// is when its context ends or [Gate.Stop] is called. A refused task goes back
// to the queue for Refusal.Delay, uncharged: it has not been tried, or what it
// met would have met any other.
//
// # What trips the breaker
//
// Upstream trouble, timeouts, broken connections and answers that make no
// sense are trouble: half of at least twenty calls within ten seconds, or ten
// and more in a row for five seconds. A shorter row is none: it may be the
// tasks of one bad moment that come back together. An answer that makes no sense (protocol) is among them because
// a gateway that serves a page of its own does that to every call, and taking
// it for the task's fault would use up the budget of all. One task with such
// an answer among good ones stays its own affair. A refused credential and an
// answer that is not KooDrive's hit every task alike and trip the breaker
// after three of one kind in a row, each as a reason of its own.
//
// Any answer about the task itself (done, already gone, invalid, forbidden,
// rejected) shows that KooDrive works, and counts as a success. Throttling, a
// cancelled call and a panic say nothing either way.
//
// The window is short on purpose. A single task that always makes KooDrive
// fail comes back after growing delays, so it cannot trip the breaker alone
// and runs out of attempts as it should.
//
// # From open to closed
//
// The names are the electrician's: closed passes, open does not. The breaker
// opens; after a pause, one task is let through as a probe and the breaker is
// half-open until its answer. Bad: open again, and the next pause is about
// twice as long, from one second up to a minute. Good: the next probe follows
// after the shortest pause, and the third good one in a row closes the
// breaker. No pause is shorter than a second for each live worker, so a fleet
// of any size sends less than one probe a second.
//
// Then comes a ramp rather than a stampede: ten calls a second over the fleet,
// doubled every second until another limit is the lower one. Calls in flight
// grow no faster: never more than one second's worth. A closure by throttling
// has no ramp: KooDrive works, and has said itself from when on it can be
// called. Where it says so again and again, a rate is what helps.
//
// # A rate for a fleet
//
// Each worker takes rate/live, live being the number of workers that
// [Fleet.Snapshot] knows: no round trip to Redis for a call. When live grows
// the share shrinks at once. When live falls, the share grows after a second
// in which it stayed so, and a new worker makes no call in its first second:
// by then the others know of it. So shares that are being changed add up to
// less than the rate rather than to more.
//
// # Who may see whom
//
// The worker composes the package and implements Fleet. It imports the
// vocabulary of package tasks and nothing else of ours: no queue, no Redis, no
// client, no metrics. It reports by [Gate.Status] and Config.OnChange. It
// starts no goroutine of its own; one timer is set while tasks wait.
package gate
