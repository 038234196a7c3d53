// Package quota estimates how many calls a second an API allows. The API says so, if at
// all, only when it refuses a call with a 429.
//
// An [Estimate] is what a fleet of clients knows. It is brought up to date five times a
// second, with [Estimate.Update], from the counts of the whole fleet: how many calls have
// passed so far, and how many were refused. It answers with a rate. The clients must see
// to it that they make no more calls than that.
//
// # Phases
//
// Unlimited. Any number of calls is allowed until the first refusal.
//
// Searching. The rate is far from right. It begins at what passed in the last second, and
// at 100 calls a second if that was less. Then it doubles every 400 ms, until a tenth of
// the calls is refused. If that does not happen and the clients do not need the rate, there
// is no limit.
//
// Following. The rate is near the limit. If calls are refused, it falls to what got
// through, less one percent: a correction. A corrected rate stays for two seconds. Then
// it grows, by a fifth of a percent in the first second, and ever faster: after twelve
// seconds it has doubled. If the correction before led to quite another rate, little is known
// yet, and it grows three times as fast. It does not grow while the clients do not need it. If
// it has grown eightfold, the phase is Searching again. If nothing was refused for ten minutes
// and the clients do not need the rate, it is Unlimited again.
//
// Closed. Calls are refused, and none passes: the quota of a window of time is used up.
// For a second there are ten probes a second, then there is one a second, whatever a
// Retry-After says: that may be about a single user. If the API has named a window of
// minutes or more, there is one probe for each hundredth of it, and one a minute at least. When a probe passes, a window has
// opened. What passed from one opening to the next, over that time, is the rate. So 3,000
// calls a minute become 50 a second. At a window of minutes the rate grows more slowly:
// the unit is a quarter of the window.
//
// One such time is not a window yet: perhaps the API has refused everything for a while. So
// the next rate is a little higher than what that time suggests, and much higher after a short
// time. If calls are refused again after about as long, the length of the window is known.
// If more passes than in the time before, there is none, and the phase is Searching.
//
// # Epochs
//
// What was called before a correction is refused for the old rate, and says nothing about
// the new one. So each correction begins an epoch, each call belongs to the epoch in which it
// was allowed, and refusals of an old epoch do not count.
//
// # Told
//
// If the API names its limit and the window, the rate is a little less than that at once,
// even if no call was refused yet. It does not grow beyond it for three minutes, or for
// ten windows, and for an hour at most. A limit of which much more passes than it allows is
// somebody else's: it is ignored, or forgotten.
//
// # Refused at any rate
//
// Some calls may be refused whatever the rate: those of some users, perhaps. If they drove
// the rate down, each correction would be followed by the next, down to nothing. So the
// share of the calls that are refused is compared before and after a correction. If the
// rate is the cause, as many calls pass as before, and fewer are refused. If it is not, the
// share stays the same. Each correction of a series adds to a score (a sequential
// probability ratio test). If the score is high, the next correction is a trial: the
// rate falls a fifth below what got through, and stays there. If the share stays the same
// even then, the rate is set back to what it was before the series, that share becomes the
// usual one, and only what is refused far beyond it counts.
//
// Chance may deceive such a test, and things change. So after ten seconds there is
// another trial, and later ones after twice as long each time, unless the share is so
// small that it costs less than a trial.
//
// # Limits of the method
//
// A quota that is used by others as well, or of which a large share of the calls is refused
// at any rate, is used to nine tenths and more, with more calls refused. If calls take
// seconds, it takes that much longer to see what a rate leads to. The tables of the tests
// have the figures.
package quota
