package asynqx

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/internal/redistest"
)

// A password that is wrong is an error of each command in a pipeline.
func TestEachReply_LoginRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	options := *server.Options()
	options.Password = "wrong"
	if err := server.Client().ConfigSet(t.Context(), "requirepass", "right").Err(); err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&options)
	defer func() { _ = rdb.Close() }()
	for _, pipeline := range []redis.Pipeliner{rdb.Pipeline(), rdb.TxPipeline()} {
		one, two := pipeline.Get(t.Context(), "a"), pipeline.Get(t.Context(), "b")
		EachReply(pipeline.Exec(t.Context()))
		for _, cmd := range []*redis.StringCmd{one, two} {
			if err := cmd.Err(); err == nil || !strings.HasPrefix(err.Error(), "WRONGPASS ") || !IsUnavailable(err) {
				t.Errorf("%v; want WRONGPASS, which is no answer to the command", err)
			}
		}
	}
}

// Commands that were answered keep their answers.
func TestEachReply_Answered(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	rdb.Set(t.Context(), "a", "1", 0)
	pipeline := rdb.Pipeline()
	there, missing, wrong := pipeline.Get(t.Context(), "a"), pipeline.Get(t.Context(), "b"), pipeline.LLen(t.Context(), "a")
	EachReply(pipeline.Exec(t.Context()))
	if there.Err() != nil || there.Val() != "1" || missing.Err() != redis.Nil || !redis.HasErrorPrefix(wrong.Err(), "WRONGTYPE") { //nolint:errorlint // the very error
		t.Errorf("%v, %v, %v; want 1, nothing and WRONGTYPE", there, missing, wrong)
	}
}
