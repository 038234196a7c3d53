// Package doctor finds what an operator would otherwise find at night: a Redis that evicts
// keys, a credential that is refused, tasks that nobody works on. It owns the findings: what
// is looked at, when it is wrong, and the hint with the command that mends it. It owns no keys.
//
// The command kooworker doctor calls it and prints. The package imports what knows each
// subject: redischeck, outage and clock, koodrive, recovery, deadletter and fleet, the ledger of
// batches and the pauses. It must not import package worker, nor print.
//
// # How it looks
//
// [Doctor.Run] carries out its checks one after the other, each within a time limit of its own, so
// that a Redis or a KooDrive that hangs does not hang it. If Redis is away, the checks that need
// it are skipped. A check that Redis refuses for lack of permission is a warning, and says which
// permission is missing.
//
// Nothing is changed by that: every check reads only. The permissions are found out by asking
// Redis whether it would allow a command, not by trying it. KooDrive is asked for the devices of a
// user that does not exist.
//
// # How it repairs
//
// [Doctor.Fix] does what a worker does by itself when it runs, with the same code: package
// recovery. It takes the lock of the repairers first, and does nothing while a worker holds
// it. It never changes the configuration of Redis; the hint has the command.
package doctor
