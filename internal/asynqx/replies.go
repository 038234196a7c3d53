package asynqx

import (
	"slices"

	"github.com/redis/go-redis/v9"
)

// EachReply gives each command of a pipeline its error, for those who look at the commands
// one by one. It takes what Pipelined and Exec return.
//
// go-redis leaves the commands as they are if Redis answers to the login with an error, such
// as WRONGPASS: they look as if Redis had answered, and had nothing.
func EachReply(cmds []redis.Cmder, err error) {
	if err == nil || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		return
	}
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
}
