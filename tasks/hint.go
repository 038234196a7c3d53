package tasks

// Hint tells an operator what to do about tasks that fail, or are dead, for this reason. It
// is about calls to KooDrive, and not about webhooks. It is "" for what is no failure.
func (r Reason) Hint() string { return hints[r] }

var hints = map[Reason]string{
	Misrouted: "the answer is not KooDrive's: check the KooDrive URL (scheme, host, port and prefix, " +
		"without /koodrive/ose/v1/backup) and any proxy or firewall on the way, and ask the gateway's owner whether the API is published " +
		"there, and open to this credential and address",
	Unauthorized: "no credential was accepted: check the token, its file or broker, or the app id and secret, and " +
		"the token format; then whether the clocks differ by more than 15 minutes",
	Forbidden: "the credential is valid but not for this user: check that the user id is KooDrive's and that the " +
		"token or app may act for it; the broker may have no token for it",
	Network: "no connection, or it broke: check name resolution, firewall, proxy settings (HTTPS_PROXY, NO_PROXY) and " +
		"the server's certificate from this very machine",
	TimedOut:  "no answer in time: if this continues, check the network path and raise the call timeout",
	Throttled: "the workers call at the rate that KooDrive allows; if that is too slow, have the quota raised",
	Invalid:   "KooDrive refuses these parameters: check the user id and the device or lock id",
	Upstream:  "KooDrive or its gateway fails: if this continues, tell its operators; replay what is dead when it is well again",
	Protocol:  "the answer makes no sense: look at what a proxy or gateway on the way does to it",
	Rejected:  "the table of codes does not know this code: look it up, and add it to the deployment's reasons if it means something else",

	Undecodable: "the payload is not a task of this version: repair the producer, enqueue the task again, and discard this one",
	UnknownKind: "a newer producer may have written it: upgrade the workers, then replay",
	Expired:     "its not_after has passed before it was its turn: if it is still wanted, enqueue it again; a replay expires again",
	Panicked:    "a bug in kooworker: the stack is in the log",
	Crashed:     "workers died while they carried it out: look for the cause in their logs (memory, kill -9), then replay a few with --canary",
	Archived:    "it was archived, by an operator or by asynq: replay it if it is still wanted",
	StillBound:  "see why the unbinds and releases of this user are dead, repair the cause, and replay this task: it removes what is bound and held at that time",
	Waiting:     "it has waited for too long for what its error names: repair that, then replay",
	Unlisted:    "the source did not list its locks: its error says why; the next sweep tries again, so this one may be discarded",
}
