// Package asynqx holds what this program knows of asynq v0.26 beyond asynq's
// own API, once for all: the names of its keys, the messages it keeps in Redis,
// the options of our tasks, the scripts it would run, and the hooks and the
// logger that its servers need.
//
// Packages enqueue, worker and those below worker that look at asynq's tasks in
// Redis (deadletter, locks, pipeline, recovery) call it. It imports asynq,
// go-redis, zap and our package tasks, and nothing else of ours.
//
// asynq keeps most of this internal and may change it in any release. The tests
// of this package hold it against the asynq that is linked in and a real Redis.
// When they fail after an upgrade, read asynq's internal/base, internal/rdb and
// internal/proto again before anything else.
package asynqx
