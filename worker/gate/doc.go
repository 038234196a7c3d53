// Package gate decides when a call to the KooDrive API may be made, and whether a
// failure is the fault of its task. A job acquires a permit with [Gate.Acquire], makes
// its call, and reports the answer with [Permit.Report]. If it makes no call after all,
// it ends the permit with [Permit.Cancel]. The example of Acquire shows all of this.
//
// # The life of a call
//
// Acquire makes the task wait for its turn. The task that has waited longest
// goes first. It gets its permit when nothing blocks it any more:
//
//  1. Its user: while a user is refused at any rate, one call of the user is made now
//     and then, and the user's other tasks are refused at once.
//  2. The breaker of its kind of call (unbind, release or list): while KooDrive is
//     in trouble only probes are admitted, one at a time, after growing delays.
//     Tasks of another kind go on.
//  3. The limit of calls in flight.
//  4. The rate: a token of the fleet's, while a quota or Config.Rate limits the calls,
//     and fewer calls during a ramp.
//
// Then the job calls. Report tells the breaker about the answer. If the answer is
// "too many requests" (429), its task is put back, and the answer counts for the
// quota.
//
// Report returns nil if the answer is about the task. It returns a [Refusal] if
// the answer is a 429, if the failure belongs to an outage, or if nobody can tell
// yet. A task waits for at most Config.MaxWait. It is refused when that is over, when
// its context ends, or when [Gate.Stop] is called. A refused task goes back to the
// queue for Refusal.Delay, uncharged.
//
// # Whose fault is it?
//
// A task that always fails must be charged, so that it is dead in the end. An outage
// must be charged to nobody, however long it lasts and however few tasks notice it. A
// single answer does not tell one from the other, whatever its status. What tells is
// how the calls of other users end:
//
//	after the failure                         the failure is about  and then
//	----------------------------------------  --------------------  -------------------------
//	no server received the call               no one                uncharged; with 3 distinct
//	                                                                tasks the breaker opens
//	a call of the same kind that began later  the task              charged; the user is at
//	succeeds                                                        fault from now on
//	… and the calls of 10 users had failed    a short outage        uncharged; who fails again
//	in a row                                                        within an hour is at fault
//	the user is at fault already              the task              charged at once
//	50 distinct users fail alike, and nobody  KooDrive              uncharged; the breaker
//	succeeds                                                        opens
//	the check fails                           perhaps KooDrive      uncharged; with 3 distinct
//	                                                                tasks the breaker opens
//	the check succeeds                        the task              as if a call had succeeded
//	… and the failure is misrouted            this kind of call     as if the check had failed
//	nothing of this within a second, and the  the task, if KooDrive charged; else uncharged
//	check tells nothing                       itself refused it
//
// Failures are alike if they are of one kind of call and one class. Upstream trouble,
// timeouts, broken connections and answers that make no sense (protocol) are one class.
// Unauthorized, misrouted, rejected, forbidden and invalid are a class each. So any
// answer that everybody gets opens the breaker, and the breaker's reason says which.
//
// The check asks for the devices of a user whose call has succeeded before, or of the
// task's own user if none is known. It is made only if no other call has decided for a
// second. On a busy worker the other calls decide within milliseconds. One check serves
// all failures that are older than it. Of a failure that KooDrive itself has decided
// (forbidden, invalid) the own user's list tells nothing, and nor does a list that is
// misrouted of any other failure.
//
// A user at fault is so until the user's next success, or for an hour after the last
// failure. Failures of users at fault do not count for the breaker. So a few users cannot
// stop the others, however many tasks they have.
//
// Only this worker's own calls show whose fault a failure is, and close its breaker:
// perhaps this worker alone has a bad credential, or a firewall on its way. But
// failures are counted over the whole fleet, until a success of any worker: no window
// forgets them. A fleet that makes one call an hour notices an outage as well, only later.
//
// Some cases cannot be told apart, and the safe side is taken:
//
//   - The calls of 50 users fail, nothing else is queued, and the check succeeds. Either
//     all of these tasks are bad, or KooDrive has lost this one kind of call. These
//     tasks wait uncharged until one of them succeeds, or another user's.
//   - A task always fails, and so does the check. It is not charged until KooDrive
//     answers the check.
//   - KooDrive refuses everybody (forbidden), and no user is known to be good. A worker
//     that makes fewer than 50 calls at a time charges the first ones.
//
// If the process dies while a failure waits for its decision, the task runs again,
// uncharged.
//
// # From open to closed
//
// As with an electric circuit, a closed breaker lets calls pass and an open one does
// not. When the breaker has opened and a delay is over, one task is admitted as a
// probe, and the breaker is half-open until the probe's answer. After a failure it is
// open again, and the next delay is about twice as long, from one second up to a
// minute. No delay is shorter than one second for each live worker, so a fleet of any
// size sends fewer than one probe a second of each kind.
//
// The users take turns: a probe is a task whose user has not failed yet, or else the
// one whose failure is oldest. Delays grow for both apart: a task of a new user need
// not wait because those of known users have failed again and again. Tasks of known
// users give way to others after a moment.
//
// If no task comes, there is no probe, and the breaker stays open. After a minute or so its
// status says that nobody knows whether calls pass (BreakerStatus.Untested): the tasks have
// gone elsewhere, and an outage that nothing waits for is not told of.
//
// A success closes the breaker, and brings the next probe of the other workers forward.
// If the breaker is open for upstream trouble, for a refused credential or for misrouted
// answers, it is closed by a refusal of KooDrive's own (invalid, forbidden) as well.
//
// Then the rate rises step by step, so that the tasks that waited do not all call
// at once. This is the ramp: ten calls a second over the whole fleet, doubled
// every second until another limit is lower. During the ramp at most the calls of
// one second are in flight.
//
// # The quota
//
// KooDrive allows some number of calls a second, and says so only when it refuses one
// with a 429. The fleet learns that number, for each kind of call; package quota has the
// method. If KooDrive names a limit of the caller, and not of one API, it is for
// calls of all kinds together.
//
// The tokens are handed out from one place. A worker with tasks that wait asks the
// fleet ([Gate.Pace]) ten times a second, tells what passed and what was refused, and
// gets tokens: each allows one call from its time on. The times of all tokens of the
// fleet are evenly spaced, at most 200 ms ahead. So 10 calls a second over 20 workers are
// 10 calls a second, and no worker needs to know how many others there are. Config.Rate
// is a second bucket that every call needs a token of. A call needs no round trip to
// Redis. While there is no limit, a worker only tells its counts, twice a second.
//
// A 429 is about its call first: the task goes back alone, for as long as Retry-After says.
// A user whose calls are refused twice in a row, while ten calls of others pass, is
// refused at any rate: the further refusals do not count for the quota, and the user's
// tasks wait, but for one now and then.
//
// If the fleet does not answer for a second, a worker goes on with the share that it had.
// If eight calls in a row are refused, a worker waits 300 ms, so that the fleet can find
// out. If the process dies, its tokens and its last counts are lost: a few calls fewer
// are made, and nothing else happens.
//
// # Boundaries
//
// Package worker builds the gate and gives it a Fleet and a Check. Package jobs
// acquires the permits. The package imports tasks and its own package quota, and must not
// import anything else of this module: no queue, no Redis, no API client, no metrics. Others learn of its state
// by [Gate.Status] and Config.OnChange. It starts no goroutine: [Gate.Pace] runs in one of
// its caller's. It sets one timer while tasks wait.
package gate
