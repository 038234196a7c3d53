// Package deadletter keeps what failed for good, where an operator can see it,
// try it again, or throw it away. It owns the asynq queue "dead-letter" and
// the envelope that letters wear in it.
//
// # Where a letter is
//
// A letter is an asynq task of the kind it always had. Parked, it lies in the
// queue's retry set, some ten years ahead, with the error that killed it:
//
//   - asynqmon lists it on the queue's Retry page with the error, its Run
//     button replays it and its Delete button discards it;
//   - asynq's cap of 9,999 archived tasks, and their deletion after 90 days,
//     do not apply.
//
// It gets there in two steps, each atomic. Park enqueues it; it is "arriving".
// The worker that takes it from the queue for the first time does nothing but
// return the error that killed it, which makes asynq move it to the retry set
// and count one retry. That count tells the two apart from then on: zero is a
// letter that arrives, anything else a parked letter that somebody wants
// replayed.
//
// A replay carries the task out in its place. It is not moved back to its work
// queue: between taking it from here and adding it there under the same ID,
// another copy of it may die and find the place taken, and then the last copy
// is dropped. Done, the letter is gone; failed, it is parked again with the
// new error.
//
// # Crashes
//
// Park is called while the dead task is still active in its own queue, and that
// one goes only after Park returned nil. A crash before that runs the task
// again, which ends in Park again, which then finds its own letter and says so.
// Replay and Discard are one atomic step a letter: interrupted, each letter is
// either parked or replayed, parked or gone.
//
// Replay, Discard and List read the letters a page at a time, in bounded memory;
// where a filter names reasons they read an index of these only.
//
// The envelope repeats the reason, the error, the attempts and the times, since
// a crash during a replay overwrites the error that asynq keeps.
//
// The worker and the command line call this package. It imports the vocabulary,
// asynq and go-redis, and none of its siblings.
package deadletter
