// Package asynqx holds what this program knows of asynq v0.26 beyond asynq's
// own API, once for all: the names of its keys, the messages it keeps in Redis,
// the options of our tasks, the scripts it would run, and the hooks and the
// logger that its servers need.
//
// It is called by packages enqueue and worker, by those below worker that use
// asynq (deadletter, jobs, locks, recovery), and by the command line. It imports asynq
// and its codec, go-redis, zap, and of ours the packages tasks, internal/cancelable and
// internal/groupcommit. It must not import anything else of ours.
//
// asynq keeps most of this internal and may change it in any release. The tests
// of this package compare it with what the linked asynq writes into a real Redis.
// If they fail after an upgrade, read asynq's internal/base, internal/rdb and
// internal/proto again before anything else.
package asynqx
