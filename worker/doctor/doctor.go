package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/kooworker/kooworker/enqueue/batch"
	"github.com/kooworker/kooworker/worker/recovery"
)

// Status is how grave a finding is.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, and somebody should look at it
	Error   Status = "error"   // something is wrong
	Skipped Status = "skipped" // not looked at; the detail says why
)

// Finding is what a check has found. A check has one or several of them, with the same name.
type Finding struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Detail is a sentence.
	Detail string `json:"detail"`
	// Hint says what to do, with the command if there is one. It is empty if all is well.
	Hint string `json:"hint"`
	// Fixable: Fix repairs it.
	Fixable bool `json:"-"`
}

// Config is what a Doctor needs. Redis is required.
type Config struct {
	// Redis is the client of the queues. It should honour contexts
	// (ContextTimeoutEnabled), and stays the caller's to close.
	Redis redis.UniversalClient
	// KooDrive is how KooDrive is called. Nil: its checks are skipped.
	KooDrive *KooDrive
	// Missing returns the tasks that the ledger of a batch counts and nobody holds.
	// Nil: they are not looked for.
	Missing func(ctx context.Context, batch string) ([]batch.Missing, error)
	// Quick leaves out what reads every task.
	Quick bool
	// OnScan is called with how many keys and waiting IDs were read so far. Default: nothing is called.
	OnScan func(read int64)
	// Logger receives what Fix does. Default: none.
	Logger *zap.Logger
}

// Doctor checks one Redis and one KooDrive. It is not safe for concurrent use.
type Doctor struct {
	cfg Config

	// What the checks of a Run have learned so far.
	redisAway string // why no more is asked of Redis; "" if it serves
	nodes     []*node
	faults    []recovery.Fault
	faultsErr error
	scanned   int64
	live      int // workers
}

// New checks a configuration and returns a Doctor. It connects to nothing yet.
func New(cfg Config) (*Doctor, error) {
	if cfg.Redis == nil {
		return nil, errors.New("doctor: Config.Redis is required")
	}
	if cfg.OnScan == nil {
		cfg.OnScan = func(int64) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Doctor{cfg: cfg}, nil
}

// check looks at one thing. It returns what it has found, or why it could not look.
type check struct {
	name  string
	limit time.Duration // 0: what it does has limits of its own
	look  func(ctx context.Context) ([]Finding, error)
}

const (
	// redisLimit is for a check that asks Redis some questions.
	redisLimit = 10 * time.Second
	// pingLimit is for the question whether Redis is there.
	pingLimit = 5 * time.Second
)

// Run carries out all checks, and returns their findings in their order. If ctx ends, the rest
// is skipped.
func (d *Doctor) Run(ctx context.Context) (findings []Finding) {
	*d = Doctor{cfg: d.cfg}
	for _, c := range d.redisChecks() {
		findings = append(findings, d.lookAtRedis(ctx, c)...)
	}
	findings = append(findings, d.koodrive(ctx)...)
	for _, checks := range [][]check{d.workerChecks(), d.queueChecks(), d.taskChecks(), d.batchChecks(), d.scheduleChecks()} {
		for _, c := range checks {
			findings = append(findings, d.lookAtRedis(ctx, c)...)
		}
	}
	return findings
}

// lookAtRedis carries out a check that needs Redis.
func (d *Doctor) lookAtRedis(ctx context.Context, c check) []Finding {
	switch {
	case ctx.Err() != nil:
		return []Finding{{Name: c.name, Status: Skipped, Detail: "interrupted"}}
	case d.redisAway != "":
		return []Finding{{Name: c.name, Status: Skipped, Detail: d.redisAway}}
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if c.limit > 0 {
		limited, cancel = context.WithTimeout(ctx, c.limit)
	}
	defer cancel()
	findings, err := c.look(limited)
	for i := range findings {
		findings[i].Name = c.name
	}
	if err == nil {
		return findings
	}
	return append(findings, d.unknown(ctx, c, err))
}

func ok(format string, args ...any) []Finding {
	return []Finding{{Status: OK, Detail: fmt.Sprintf(format, args...)}}
}

func skipped(why string) []Finding {
	return []Finding{{Status: Skipped, Detail: why}}
}

func warning(hint, format string, args ...any) Finding {
	return Finding{Status: Warning, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

func wrong(hint, format string, args ...any) Finding {
	return Finding{Status: Error, Detail: fmt.Sprintf(format, args...), Hint: hint}
}
