// Package cancelable makes a call end with its context when the call itself does not.
// go-redis observes a context's deadline but not its cancellation: a call to a Redis
// that hangs returns at go-redis' own time-out. asynq's inspector takes no context at
// all. Any package may call this one; it imports the standard library only.
package cancelable

import "context"

// Call returns what f returns, or ctx's error if ctx ends first. In that case f
// continues in the background, so it must not write to what the caller reads.
func Call[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
