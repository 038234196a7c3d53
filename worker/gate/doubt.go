package gate

import (
	"context"
	"slices"
	"time"

	"github.com/kooworker/kooworker/tasks"
)

// about is what a failure is about.
type about int

const (
	theTask about = iota + 1
	anOutage
)

// doubt is a failure of which nobody knows yet what it is about. The gate's lock
// guards it until decided is closed.
type doubt struct {
	breaker *breaker
	call    Call
	reason  tasks.Reason
	class   tasks.Reason
	at      time.Time // when the call failed
	decided chan struct{}
	about   about
}

// decide decides doubts. decision returns 0 for a doubt that stays.
func (b *breaker) decide(decision func(*doubt) about) {
	if len(b.doubts) == 0 {
		return
	}
	b.doubts = slices.DeleteFunc(b.doubts, func(d *doubt) bool {
		if d.about = decision(d); d.about == 0 {
			return false
		}
		close(d.decided)
		return true
	})
}

// decide decides this doubt.
func (d *doubt) decide(a about) {
	d.breaker.decide(func(other *doubt) about {
		if other == d {
			return a
		}
		return 0
	})
}

const (
	// patience is how long a failure waits for the answers of other calls. Then the
	// check decides.
	patience = time.Second
	// newsEvery is how often a failure that waits reads the news of the fleet.
	newsEvery = 100 * time.Millisecond
)

// settle waits until a doubt is decided, and makes the check if nothing else
// decides it. If ctx ends before that, the task runs again, uncharged.
func (g *Gate) settle(ctx context.Context, d *doubt) about {
	limit, tick := time.NewTimer(patience), time.NewTicker(newsEvery)
	defer limit.Stop()
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-d.decided:
			return d.about
		case <-ctx.Done():
			waiting = false
		case <-limit.C:
			waiting = false
		case <-tick.C:
			g.mu.Lock()
			g.refresh(time.Now())
			g.mu.Unlock()
		}
	}
	health := g.check(ctx, d)
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-d.decided:
		return d.about
	default:
	}
	b, now := d.breaker, time.Now()
	users, targets := b.count(now, d.class)
	switch {
	case health == works && d.class != tasks.Misrouted:
		d.decide(b.blame(now, d.call.User, d.class, users >= severalUsers))
	case health == unknown && isVerdict(d.class) && ctx.Err() == nil:
		d.decide(theTask)
	case health != unknown && targets >= someTasks: // KooDrive fails, or nobody knows this kind of call
		b.open(now, d.reason)
	default:
		d.decide(anOutage)
	}
	return d.about
}

// health is the result of a check.
type health int

const (
	unknown health = iota // nothing
	works                 // KooDrive works for others
	fails                 // it does not
)

// check is one check of KooDrive.
type check struct {
	began time.Time
	done  chan struct{}
	user  string
	good  bool // a call of this user has succeeded before
	// Set when done is closed:
	answer Answer
	made   bool
}

// check asks KooDrive for something harmless: the devices of a user whose call has
// succeeded before. If no such user is known, it is the user of the doubt. There is
// one check at a time. It serves all doubts that are older than it.
func (g *Gate) check(ctx context.Context, d *doubt) health {
	for ctx.Err() == nil {
		g.mu.Lock()
		if g.breakers[List].state != Closed {
			g.mu.Unlock()
			return fails
		}
		c := g.lastCheck
		mine := c == nil || c.isDone() && !c.began.After(d.at)
		if mine {
			c = &check{began: time.Now(), done: make(chan struct{}), user: g.goodUser, good: g.goodUser != ""}
			if !c.good {
				c.user = d.call.User
			}
			g.lastCheck = c
		}
		g.mu.Unlock()
		if mine {
			g.runCheck(ctx, c)
		}
		select {
		case <-c.done:
		case <-d.decided:
			return unknown
		case <-ctx.Done():
			return unknown
		}
		if c.began.After(d.at) {
			return c.health(d)
		}
	}
	return unknown
}

func (c *check) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// runCheck makes the call of a check, once the gate admits it.
func (g *Gate) runCheck(ctx context.Context, c *check) {
	defer close(c.done)
	if g.cfg.Check == nil {
		return
	}
	call := Call{Kind: List, User: c.user}
	permit, refusal := g.Acquire(ctx, call)
	if refusal != nil {
		return
	}
	defer permit.Close()
	answer := g.cfg.Check(ctx, c.user)
	if _, idle := permit.report(ctx, answer); idle != nil { // nobody waits for it
		g.mu.Lock()
		idle.decide(anOutage)
		g.mu.Unlock()
	}
	c.answer, c.made = answer, ctx.Err() == nil
}

// health returns what a check says about a doubt.
func (c *check) health(d *doubt) health {
	class := classOf(c.answer.Reason)
	switch {
	case !c.made, c.answer.NotSent, isVerdict(d.class) && !c.good, class == tasks.Misrouted && d.class != class:
		return unknown // the last: nobody knows this kind of call
	case isSuccess(c.answer.Reason), isVerdict(class) && class != d.class:
		return works
	case class != "":
		return fails
	default:
		return unknown
	}
}
