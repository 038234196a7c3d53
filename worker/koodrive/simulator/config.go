package simulator

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"
)

// Config says how a Simulator behaves. The zero value is a KooDrive without users
// that accepts every credential.
type Config struct {
	// Auth is how callers must authorize. Default: not at all.
	Auth Auth
	// Clock is the server's clock. Date headers, the window for X-Date, the life
	// of locks and the throttle follow it. Faults that wait do not: they take real
	// time. Default time.Now.
	Clock func() time.Time
	// LockLife is how long a lock lives after it was taken or renewed. Default
	// 10 minutes, the vendor's figure.
	LockLife time.Duration
	// GoneStatus is the HTTP status that goes with code 13000309, which the
	// vendor leaves open. 200 to 599, default 404.
	GoneStatus int
	// RateLimit is how many requests per second are accepted over all callers.
	// Further ones are answered 429 with Retry-After. The requests of one second
	// may come at once. Default 0: no limit.
	RateLimit float64
	// Faults are the faults at the start; see Simulator.AddFault.
	Faults []Fault
	// Seed makes the choices of Fault.Rate repeatable. Default 0: a random seed,
	// which Stats shows.
	Seed uint64
	// LogSize is how many of the last requests Simulator.Log can show. Default
	// 1000.
	LogSize int
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
	// {token} where the token goes. Default "Bearer+{token}".
	TokenFormat string
	// Token is the token expected of every user in token mode. SetToken changes
	// it. Default empty: any token is accepted.
	Token string
	// AppID and AppSecret are the application's, in app mode.
	AppID, AppSecret string
}

const (
	defaultFormat    = "Bearer+{token}"
	tokenPlaceholder = "{token}"
	defaultLockLife  = 10 * time.Minute
	defaultLogSize   = 1000
)

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.LockLife == 0 {
		c.LockLife = defaultLockLife
	}
	if c.GoneStatus == 0 {
		c.GoneStatus = http.StatusNotFound
	}
	if c.LogSize == 0 {
		c.LogSize = defaultLogSize
	}
	if c.Auth.Mode == "" {
		c.Auth.Mode = AuthNone
	}
	if c.Auth.TokenFormat == "" {
		c.Auth.TokenFormat = defaultFormat
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.LockLife < 0:
		return fmt.Errorf("lock life is %v; want more than nothing", c.LockLife)
	case !carriesBody(c.GoneStatus):
		return fmt.Errorf("status for gone resources is %d; want 200 to 599, and one that carries a body", c.GoneStatus)
	case math.IsNaN(c.RateLimit) || math.IsInf(c.RateLimit, 0) || c.RateLimit < 0 || c.RateLimit > math.MaxInt32:
		return fmt.Errorf("rate limit is %v; want requests per second, or 0 for none", c.RateLimit)
	case c.LogSize < 0:
		return fmt.Errorf("log size is %d; want a number of requests", c.LogSize)
	}
	return c.Auth.validate()
}

func (a Auth) validate() error {
	switch a.Mode {
	case AuthNone:
		return nil
	case AuthToken:
		if strings.Count(a.TokenFormat, tokenPlaceholder) != 1 {
			return fmt.Errorf("token format is %q; want %s in it once", a.TokenFormat, tokenPlaceholder)
		}
		return nil
	case AuthApp:
		if a.AppID == "" || a.AppSecret == "" {
			return errors.New("app authorization needs both the app's id and its secret")
		}
		return nil
	default:
		return fmt.Errorf("authorization is %q; want %s, %s or %s", a.Mode, AuthNone, AuthToken, AuthApp)
	}
}
