package dashboard

import (
	"context"
	"errors"
	"sync"
)

// errStopping is for a change that is ordered while the dashboard stops.
var errStopping = errors.New("the dashboard is just starting or stopping; try again in a moment")

// background runs what goes on without a request, from the beginning of Run to its end.
type background struct {
	mu   sync.Mutex
	ctx  context.Context //nolint:containedctx // that of Run
	runs sync.WaitGroup
}

// background runs a function beside the requests. It reports false if nothing may begin: Run has
// not begun, or ends.
func (d *Dashboard) background(run func(ctx context.Context)) bool {
	b := &d.beside
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx == nil || b.ctx.Err() != nil {
		return false
	}
	b.runs.Go(func() { run(b.ctx) })
	return true
}

// begin lets functions run until ctx ends.
func (b *background) begin(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ctx = ctx
}

// wait waits until ctx has ended and all functions with it. None begins after that.
func (b *background) wait(ctx context.Context) {
	<-ctx.Done()
	b.mu.Lock() // a function that is just beginning has begun
	defer b.mu.Unlock()
	b.runs.Wait()
}
