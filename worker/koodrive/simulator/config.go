package simulator

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"
)

// Config says how a Simulator behaves. The zero value is a KooDrive without
// users that accepts every caller.
type Config struct {
	// Auth is how callers must authorize. Default: not at all.
	Auth Auth
	// Clock is the server's clock. Date headers, the window for X-Date, the
	// life of locks, the throttle and the quotas follow it. Faults that wait take real
	// time. Default time.Now.
	Clock func() time.Time
	// GoneStatus is the HTTP status of code 13000309, which the vendor does not
	// specify. 200 to 599, default 404.
	GoneStatus int
	// RateLimit is how many requests per second are let through over all
	// callers. Those above get 429 with Retry-After. The requests of one second
	// may come at once. Default 0: no limit.
	RateLimit float64
	// Quotas are the initial quotas. They can do what RateLimit cannot; see Quota.
	Quotas []Quota
	// Faults is the initial fault plan; see Simulator.AddFault.
	Faults []Fault
	// Seed makes the choices of Fault.Rate repeatable. Default 0: a random
	// seed, which Stats shows.
	Seed uint64
}

// The values of Auth.Mode.
const (
	AuthNone  = "none"
	AuthToken = "token"
	AuthApp   = "app"
)

// Auth says how callers must authorize.
type Auth struct {
	// Mode is AuthNone, AuthToken or AuthApp. Default AuthNone: the
	// Authorization header is ignored.
	Mode string
	// TokenFormat is the value of the Authorization header in token mode, with
	// {token} in place of the token. Default "Bearer+{token}".
	TokenFormat string
	// Token is the token that every user must send in token mode; SetToken
	// changes it. Default empty: any token will do.
	Token string
	// AppID and AppSecret are the application's, in app mode.
	AppID, AppSecret string
}

const (
	tokenPlaceholder = "{token}"
	// lockLife is how long a lock lives after it was taken or renewed, as the
	// vendor says.
	lockLife = 10 * time.Minute
)

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.GoneStatus = cmp.Or(c.GoneStatus, http.StatusNotFound)
	c.Auth.Mode = cmp.Or(c.Auth.Mode, AuthNone)
	c.Auth.TokenFormat = cmp.Or(c.Auth.TokenFormat, "Bearer+"+tokenPlaceholder)
	return c
}

func (c Config) validate() error {
	switch auth := c.Auth; {
	case !carriesBody(c.GoneStatus):
		return fmt.Errorf("status for gone resources is %d; want 200 to 599, and one that carries a body", c.GoneStatus)
	case math.IsNaN(c.RateLimit) || c.RateLimit < 0 || c.RateLimit > math.MaxInt32:
		return fmt.Errorf("rate limit is %v; want requests per second, or 0 for none", c.RateLimit)
	case auth.Mode != AuthNone && auth.Mode != AuthToken && auth.Mode != AuthApp:
		return fmt.Errorf("authorization is %q; want %s, %s or %s", auth.Mode, AuthNone, AuthToken, AuthApp)
	case auth.Mode == AuthToken && strings.Count(auth.TokenFormat, tokenPlaceholder) != 1:
		return fmt.Errorf("token format is %q; want %s in it once", auth.TokenFormat, tokenPlaceholder)
	case auth.Mode == AuthApp && (auth.AppID == "" || auth.AppSecret == ""):
		return errors.New("app authorization needs both the app's id and its secret")
	}
	return nil
}
