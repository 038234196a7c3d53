// Package gate decides when a call to the KooDrive API may be made. A job acquires a
// permit with [Gate.Acquire], makes its call, and reports the answer with
// [Permit.Report]. If it makes no call after all, it ends the permit with
// [Permit.Cancel]. The example of Acquire shows all of this.
//
// # The life of a call
//
// Acquire makes the task wait for its turn. The task that has waited longest
// goes first. It gets its permit when nothing blocks it any more:
//
//  1. The throttle: KooDrive asked this worker, or another worker of the fleet,
//     for a pause. A task waits if the pause ends within its time, else it is
//     refused at once.
//  2. The breaker: while KooDrive is in trouble only probes are admitted, one at
//     a time, after growing delays.
//  3. The limit of calls in flight.
//  4. The rate: this worker's share of the fleet's rate, or less during a ramp.
//
// Then the job calls. Report tells the breaker about the answer. If the answer is
// "too many requests" (429), Report pauses the fleet.
//
// Report returns nil if the answer is about the task. It returns a [Refusal] if
// the answer is a 429, or a failure that belongs to an outage: the breaker is not
// closed, or has changed since the call began. Both say more about the state of
// KooDrive than about the task.
//
// A task waits for at most Config.MaxWait. It is refused when that is over, when
// its context ends, or when [Gate.Stop] is called. A refused task goes
// back to the queue for Refusal.Delay, uncharged: either it was not tried, or any
// other task would have failed in the same way.
//
// # What opens the breaker
//
// These answers count as failures: upstream trouble, timeouts, broken connections,
// and answers that make no sense (protocol). The breaker opens in either case:
//
//   - At least twenty calls ended within ten seconds, and half of them failed.
//   - Ten or more calls in a row failed, and that has lasted five seconds. A
//     shorter row proves nothing: its tasks may have failed together in one bad
//     moment, and have come back together.
//
// Protocol is among them because a gateway that serves a page of its own does so
// for every call. If each task were blamed for it, all of them would use up their
// attempts. A single task that gets such an answer among good ones is charged as
// usual.
//
// A refused credential (unauthorized) and an answer that is not KooDrive's
// (misrouted) are failures that affect every task alike. Three of one kind in a
// row open the breaker, each kind as a reason of its own.
//
// Any answer about the task itself (done, already gone, invalid, forbidden,
// rejected) shows that KooDrive works, and counts as a success. A 429, a call
// that was canceled on this side, and a panic say nothing either way.
//
// The window is short on purpose. A single task that always makes KooDrive fail
// comes back after growing delays. So it cannot open the breaker alone, and it
// runs out of attempts as it should.
//
// # From open to closed
//
// As with an electric circuit, a closed breaker lets calls pass and an open one does
// not. When the breaker has opened and a delay is over, one task is admitted as a
// probe, and the breaker is half-open until the probe's answer. After a failure it is
// open again, and the next delay is about twice as long, from one second up to a
// minute. After a success the next probe follows after the shortest delay. The third
// success in a row closes the breaker. No delay is shorter than one second for each
// live worker, so a fleet of any size sends fewer than one probe a second.
//
// Then the rate rises step by step, so that the tasks that waited do not all call
// at once. This is the ramp: ten calls a second over the whole fleet, doubled
// every second until another limit is lower. During the ramp at most the calls of
// one second are in flight. After a pause by throttling there is no ramp: KooDrive
// works, and has itself said when it can be called again. If it says so again and
// again, set a rate.
//
// # A rate for a fleet
//
// Each worker takes rate/live, where live is the number of workers that
// [Fleet.Snapshot] returns. A call needs no round trip to Redis. When live grows,
// the share shrinks at once. When live falls, the share grows only after live has
// stayed lower for a second. A new worker makes no call in its first second: by
// then the others have learned of it. So while shares change, they add up to less
// than the rate rather than to more.
//
// # Boundaries
//
// Package worker builds the gate and gives it a Fleet. Package jobs acquires the
// permits. The package imports tasks, and must not import anything else of this
// module: no queue, no Redis, no API client, no metrics. Others learn of its state
// by [Gate.Status] and Config.OnChange. It starts no goroutine. It sets one timer
// while tasks wait.
package gate
