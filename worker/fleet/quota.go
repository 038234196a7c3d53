package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/kooworker/kooworker/worker/gate"
	"github.com/kooworker/kooworker/worker/gate/quota"
)

// Exchange implements gate.Fleet. If the process dies after it has been given an
// estimate to bring up to date, another worker is given it soon.
func (f *Fleet) Exchange(ctx context.Context, ask gate.Ask) (gate.Grant, error) {
	_, grant, err := f.exchangeAt(ctx, ask)
	return grant, err
}

// exchangeAt is Exchange. It returns the time by Redis' clock as well, in us.
func (f *Fleet) exchangeAt(ctx context.Context, ask gate.Ask) (now int64, out gate.Grant, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	args, err := exchangeArgs(ask)
	if err != nil {
		return 0, out, err
	}
	reply, err := exchangeCmd.Run(ctx, f.rdb, []string{quotaKey}, args...).Slice()
	if err != nil {
		return 0, out, err
	}
	const parts = 2 // and one for each kind, and one for all kinds together
	if len(reply) != parts+len(ask.Kinds)+1 {
		return 0, out, fmt.Errorf("the reply has %d parts; want %d", len(reply), parts+len(ask.Kinds)+1)
	}
	us, _ := reply[0].(string)
	if now, err = strconv.ParseInt(us, 10, 64); err != nil {
		return 0, out, fmt.Errorf("the reply has the time %q", us)
	}
	if out.Shared, err = parseRate(reply[1]); err != nil {
		return now, out, err
	}
	for i, part := range reply[parts:] {
		g, update, err := parseGranted(part)
		if err != nil {
			return now, out, err
		}
		name := gate.SharedBucket
		if i < len(ask.Kinds) {
			g.Kind = ask.Kinds[i].Kind
			name = string(g.Kind)
			out.Kinds = append(out.Kinds, g)
		}
		if update == nil {
			continue
		}
		if err := f.update(ctx, now, name, update); err != nil {
			return now, out, err
		}
	}
	return now, out, nil
}

// exchangeArgs returns the ARGV of exchangeCmd.
func exchangeArgs(ask gate.Ask) ([]any, error) {
	args := []any{
		ask.Ceiling, gate.Horizon.Microseconds(), gate.CatchUp.Microseconds(), quota.StepEvery.Milliseconds(),
		quota.FirstStepAfter.Milliseconds(), quotaTTL.Milliseconds(),
	}
	add := func(name string, a gate.Asked) error {
		told := ""
		if a.Told.Calls > 0 {
			text, err := json.Marshal(a.Told)
			if err != nil {
				return err
			}
			told = string(text)
		}
		args = append(args, name, a.Want, a.Epoch, a.Passed, a.Fresh, a.Refused, told)
		return nil
	}
	shared := gate.Asked{Told: ask.Told}
	for _, a := range ask.Kinds {
		shared.Passed += a.Passed
		if err := add(string(a.Kind), a); err != nil {
			return nil, err
		}
	}
	return args, add(gate.SharedBucket, shared)
}

// update is an estimate that is to be brought up to date.
type update struct {
	estimate quota.Estimate
	version  int64
	report   quota.Report
}

// parseGranted reads the part of exchangeCmd's reply about one quota.
func parseGranted(part any) (gate.Granted, *update, error) {
	const parts, updateParts = 9, 8
	values, _ := part.([]any)
	if len(values) != parts {
		return gate.Granted{}, nil, fmt.Errorf("a grant has %d parts; want %d", len(values), parts)
	}
	number := func(i int) int64 { n, _ := values[i].(int64); return n }
	phase, _ := values[6].(string)
	g := gate.Granted{
		N: int(number(0)), First: time.Duration(number(1)) * time.Microsecond,
		Epoch: uint64(max(number(4), 0)), IsTold: number(5) > 0, Phase: quota.Phase(phase),
	}
	var err error
	if g.Rate, err = parseRate(values[2]); err != nil {
		return g, nil, err
	}
	if g.Quota, err = parseRate(values[3]); err != nil {
		return g, nil, err
	}
	if g.Rate > 0 {
		g.Spacing = time.Duration(float64(time.Second) / g.Rate)
	}
	list, _ := values[8].([]any)
	if len(list) != updateParts {
		return g, nil, nil
	}
	number = func(i int) int64 { n, _ := list[i].(int64); return n }
	u := &update{version: number(0)}
	// An estimate that a newer worker wrote, and that cannot be read, counts as unknown.
	if text, _ := values[7].(string); text != "" && json.Unmarshal([]byte(text), &u.estimate) != nil {
		u.estimate = quota.Estimate{}
	}
	u.report.Counts = quota.Counts{Passed: number(1), Fresh: number(2), Refused: number(3), Lacked: number(4)}
	u.report.ToldAt = number(6)
	if text, _ := list[5].(string); text != "" && json.Unmarshal([]byte(text), &u.report.Told) != nil {
		u.report.ToldAt = 0
	}
	return g, u, nil
}

func parseRate(value any) (float64, error) {
	text, _ := value.(string)
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(rate) || rate < 0 {
		return 0, fmt.Errorf("the reply has the rate %q", text)
	}
	return rate, nil
}

// update brings an estimate up to date. now is in us.
func (f *Fleet) update(ctx context.Context, now int64, name string, u *update) error {
	anewFrom := int64(0)
	if isVoid := u.estimate.Update(now/1000, u.report); isVoid {
		anewFrom = now
	}
	e := u.estimate
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	isTold := 0
	if e.IsTold() {
		isTold = 1
	}
	isStored, err := commitCmd.Run(ctx, f.rdb, []string{quotaKey}, name, u.version, text, e.Rate, e.Epoch, isTold, string(e.Phase), anewFrom).Bool()
	if err != nil || !isStored {
		return err
	}
	f.logQuota(name, e)
	return nil
}

// loggedQuota is a quota as it was logged last.
type loggedQuota struct {
	rate float64
	at   time.Time
}

// logQuota logs a quota that has changed by a lot since it was logged last, but at most
// once a minute. Each worker does so in its own log.
func (f *Fleet) logQuota(name string, e quota.Estimate) {
	if e.Phase == quota.Searching || e.Phase == quota.Closed {
		return // the rate is not what KooDrive allows
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	const (
		lot  = 1.5
		rest = time.Minute
	)
	last, now := f.logged[name], time.Now()
	isLike := e.Rate < lot*last.rate && e.Rate > last.rate/lot || e.Rate == last.rate
	if isLike || !last.at.IsZero() && now.Sub(last.at) < rest {
		return
	}
	f.logged[name] = loggedQuota{e.Rate, now}
	call := zap.String("call", name)
	if e.Rate == 0 {
		f.log.Info("KooDrive refuses no calls any more: the workers call without a limit", call)
		return
	}
	f.log.Info("KooDrive's quota: the workers call at this rate together",
		call, zap.Float64("calls_per_second", math.Round(e.Rate*10)/10), zap.Bool("told", e.IsTold()))
}
