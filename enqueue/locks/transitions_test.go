package locks_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kooworker/kooworker/enqueue/locks"
	"github.com/kooworker/kooworker/internal/redistest"
	"github.com/kooworker/kooworker/tasks"
)

// step changes lock 1 and returns the answer.
type step func(context.Context, *bundle) (locks.Status, error)

func track(d time.Duration) step {
	return func(ctx context.Context, b *bundle) (locks.Status, error) {
		return first(b.store.Track(ctx, []locks.TrackRequest{b.at(id(1), d)}))
	}
}

func renew(d time.Duration) step {
	return func(ctx context.Context, b *bundle) (locks.Status, error) {
		return first(b.store.Renew(ctx, []locks.TrackRequest{b.at(id(1), d)}))
	}
}

func forget(ctx context.Context, b *bundle) (locks.Status, error) {
	return first(b.store.Forget(ctx, []tasks.LockID{id(1)}))
}

func first(answers []locks.Status, err error) (locks.Status, error) {
	if len(answers) != 1 {
		return "", errors.Join(err, errors.New("not one answer"))
	}
	return answers[0], err
}

func swept(d time.Duration) step {
	return func(ctx context.Context, b *bundle) (locks.Status, error) {
		return "", b.store.MarkSwept(ctx, []tasks.Lock{b.lock(id(1), d)})
	}
}

// claim claims, and remembers the claim for unclaim and released.
func claim(seen time.Duration) step {
	return func(ctx context.Context, b *bundle) (answer locks.Status, err error) {
		b.claim, err = b.store.Claim(ctx, id(1), b.start.Add(seen), h)
		return b.claim.Status, err
	}
}

// claim2 claims as another worker.
func claim2(ctx context.Context, b *bundle) (locks.Status, error) {
	c, err := b.store.Claim(ctx, id(1), b.start.Add(-h), h/2)
	return c.Status, err
}

func unclaim(ctx context.Context, b *bundle) (locks.Status, error) {
	return "", b.store.Unclaim(ctx, b.claim)
}

func released(ctx context.Context, b *bundle) (locks.Status, error) {
	return "", b.store.Released(ctx, b.claim)
}

// releasedByName ends a release that had no claim.
func releasedByName(ctx context.Context, b *bundle) (locks.Status, error) {
	return "", b.store.Released(ctx, locks.Claim{ID: id(1)})
}

func drop(keep time.Duration) step {
	return func(ctx context.Context, b *bundle) (locks.Status, error) {
		_, err := b.store.Drop(ctx, keep)
		return "", err
	}
}

// ended makes the claim end by its time.
func ended(ctx context.Context, b *bundle) (locks.Status, error) {
	return "", b.rdb.ZAddXX(ctx, claimsKey, redis.Z{Score: float64(b.start.UnixMilli()), Member: id(1).UserID + " " + id(1).LockID}).Err()
}

const h = time.Hour

func TestStore_Transitions(t *testing.T) {
	t.Parallel()
	server, databases := redistest.Start(t, "--databases", "200"), 0
	for name, tc := range map[string]struct {
		before []step
		act    step
		want   locks.Status
		where  string
	}{
		"track unknown":                         {nil, track(h), locks.Tracked, "expiry 1h0m0s"},
		"track what is over":                    {nil, track(-h), locks.Tracked, "expiry -1h0m0s"},
		"track again":                           {[]step{track(h)}, track(h), locks.Unchanged, "expiry 1h0m0s"},
		"track later":                           {[]step{track(h)}, track(2 * h), locks.Renewed, "expiry 2h0m0s"},
		"track earlier":                         {[]step{track(2 * h)}, track(h), locks.Unchanged, "expiry 2h0m0s"},
		"track seconds as ms":                   {nil, track(-50 * 365 * 24 * h), locks.Refused, ""},
		"track µs as ms":                        {[]step{track(h)}, track(100 * 365 * 24 * h), locks.Refused, "expiry 1h0m0s"},
		"renew unknown":                         {nil, renew(h), locks.Tracked, "expiry 1h0m0s"},
		"renew":                                 {[]step{track(h)}, renew(2 * h), locks.Renewed, "expiry 2h0m0s"},
		"renew late":                            {[]step{track(2 * h)}, renew(h), locks.Unchanged, "expiry 2h0m0s"},
		"renew swept":                           {[]step{track(-h), swept(-h)}, renew(h), locks.Renewed, "expiry 1h0m0s"},
		"track swept":                           {[]step{track(-h), swept(-h)}, track(h), locks.Renewed, "expiry 1h0m0s"},
		"renew swept, late":                     {[]step{track(-h), swept(-h)}, renew(-h), locks.Swept, "swept -1h0m0s"},
		"renew claimed":                         {[]step{track(-h), swept(-h), claim(-h)}, renew(h), locks.Releasing, "swept -1h0m0s claimed"},
		"track claimed":                         {[]step{track(-h), claim(-h)}, track(h), locks.Releasing, "swept -1h0m0s claimed"},
		"renew after its claim":                 {[]step{track(-h), claim(-h), ended}, renew(h), locks.Renewed, "expiry 1h0m0s"},
		"renew after unclaim":                   {[]step{track(-h), claim(-h), unclaim}, renew(h), locks.Renewed, "expiry 1h0m0s"},
		"forget":                                {[]step{track(h)}, forget, locks.Forgotten, ""},
		"forget again":                          {[]step{track(h), forget}, forget, locks.Unknown, ""},
		"forget swept":                          {[]step{track(-h), swept(-h)}, forget, locks.Forgotten, ""},
		"forget claimed":                        {[]step{track(-h), claim(-h)}, forget, locks.Forgotten, "claimed"},
		"track while forgotten one is released": {[]step{track(-h), claim(-h), forget}, track(h), locks.Releasing, "claimed"},
		"forget after its claim":                {[]step{track(-h), claim(-h), ended}, forget, locks.Forgotten, ""},
		"swept":                                 {[]step{track(-h)}, swept(-h), "", "swept -1h0m0s"},
		"swept again":                           {[]step{track(-h), swept(-h)}, swept(-h), "", "swept -1h0m0s"},
		"swept, renewed since":                  {[]step{track(-h), renew(h)}, swept(-h), "", "expiry 1h0m0s"},
		"swept unknown":                         {nil, swept(-h), "", ""},
		"swept, another time":                   {[]step{track(-h)}, swept(h), "", "expiry -1h0m0s"},
		"claim swept":                           {[]step{track(-h), swept(-h)}, claim(-h), locks.Claimed, "swept -1h0m0s claimed"},
		"claim before swept":                    {[]step{track(-h)}, claim(-h), locks.Claimed, "swept -1h0m0s claimed"},
		"swept after claim":                     {[]step{track(-h), claim(-h)}, swept(-h), "", "swept -1h0m0s claimed"},
		"claim again":                           {[]step{track(-h), claim(-h)}, claim(-h), locks.Claimed, "swept -1h0m0s claimed"},
		"claim renewed":                         {[]step{track(-h), swept(-h), renew(h)}, claim(-h), locks.Renewed, "expiry 1h0m0s"},
		"claim renewed, over":                   {[]step{track(-2 * h), swept(-2 * h), renew(-h)}, claim(-2 * h), locks.Renewed, "expiry -1h0m0s"},
		"claim, source is late":                 {[]step{track(-2 * h)}, claim(-h), locks.Claimed, "swept -2h0m0s claimed"},
		"claim what is to come":                 {[]step{track(h)}, claim(2 * h), locks.Renewed, "expiry 1h0m0s"},
		"claim, clock set back":                 {[]step{track(h), swept(h)}, claim(h), locks.Renewed, "expiry 1h0m0s"},
		"claim forgotten":                       {[]step{track(-h), swept(-h), forget}, claim(-h), locks.Forgotten, ""},
		"claim unknown":                         {nil, claim(-h), locks.Forgotten, ""},
		"claim swept later":                     {[]step{track(-2 * h), swept(-2 * h), renew(-h), swept(-h)}, claim(-2 * h), locks.Renewed, "swept -1h0m0s"},
		"unclaim":                               {[]step{track(-h), claim(-h)}, unclaim, "", "swept -1h0m0s"},
		"unclaim again":                         {[]step{track(-h), claim(-h), unclaim}, unclaim, "", "swept -1h0m0s"},
		"unclaim, another":                      {[]step{track(-h), claim(-h), claim2}, unclaim, "", "swept -1h0m0s claimed"},
		"unclaim, one before":                   {[]step{track(-h), claim2, claim(-h)}, unclaim, "", "swept -1h0m0s claimed"},
		"unclaim, too late":                     {[]step{track(-h), claim(-h), ended, claim2}, unclaim, "", "swept -1h0m0s claimed"},
		"released":                              {[]step{track(-h), swept(-h), claim(-h)}, released, "", ""},
		"released again":                        {[]step{track(-h), swept(-h), claim(-h), released}, released, "", ""},
		"released, another":                     {[]step{track(-h), claim(-h), claim2}, released, "", "claimed"},
		"claim after released":                  {[]step{track(-h), claim(-h), released}, claim(-h), locks.Forgotten, ""},
		"track after released":                  {[]step{track(-h), claim(-h), released}, track(h), locks.Tracked, "expiry 1h0m0s"},
		"released too late":                     {[]step{track(-h), claim(-h), ended, renew(h)}, released, "", "expiry 1h0m0s"},
		"released by name":                      {[]step{track(h)}, releasedByName, "", ""},
		"by name, swept":                        {[]step{track(-h), swept(-h)}, releasedByName, "", ""},
		"by name, claimed":                      {[]step{track(-h), claim(-h)}, releasedByName, "", "claimed"},
		"by name, unknown":                      {nil, releasedByName, "", ""},
		"drop tracked":                          {[]step{track(-h)}, drop(time.Minute), "", "expiry -1h0m0s"},
		"drop swept":                            {[]step{track(-h), swept(-h)}, drop(time.Minute), "", ""},
		"drop too early":                        {[]step{track(-h), swept(-h)}, drop(2 * h), "", "swept -1h0m0s"},
		"drop claimed":                          {[]step{track(-h), claim(-h)}, drop(time.Minute), "", "claimed"},
		"drop a claim":                          {[]step{track(-h), claim(-h), ended}, drop(2 * h), "", "swept -1h0m0s"},
	} {
		database := databases
		databases++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr(), DB: database, ContextTimeoutEnabled: true})
			t.Cleanup(func() { _ = rdb.Close() })
			b := &bundle{store: locks.NewStore(rdb), rdb: rdb, start: time.Now().Truncate(time.Millisecond).UTC()}
			for i, act := range tc.before {
				if _, err := act(t.Context(), b); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			got, err := tc.act(t.Context(), b)
			if got != tc.want || err != nil {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
			if got := b.where(t, id(1)); got != tc.where {
				t.Errorf("it is in %q; want %q", got, tc.where)
			}
		})
	}
}
