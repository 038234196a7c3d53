// Package dashboard is what operators see in a browser: asynqmon behind a door, and beside it
// the pages that it lacks.
//
//	/              what works, what waits, and what stands in the way
//	/dead          dead letters; replay and discard of all that match
//	/jobs          the replays, discards and cancellations that were ordered
//	/batches       progress, receipts, cancel, hold
//	/user          everything that happened to one user
//	/locks         the ledger of locks, and the sweeps
//	/queues        pause and resume
//	/audit         who changed what
//	/monitoring    asynqmon; see package monitoring
//
// Package access says who may come in, and who may change something. Every change is a POST
// of a form, is written to the audit log (package audit), and answers with a redirect, so that
// reloading a page repeats nothing.
//
// The pages are rendered here, from templates; they work without JavaScript. A small script
// reloads the parts of a page that change. Text from strangers (ids, names, errors) is
// escaped by html/template, and what would be invisible or change the direction of the text
// is made visible; see the function visible.
//
// What takes long (a replay of a million letters) is a job of package bulk: it goes on when the
// browser is closed, and when the dashboard is killed and started again.
//
// The command dashboard runs it, and so does the demo. It joins the packages of the operator's
// commands; nothing else imports it.
package dashboard
