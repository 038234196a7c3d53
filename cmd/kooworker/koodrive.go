package main

import (
	"os"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive"
)

//nolint:gosec // G101: the names of variables, not what is in them
const credentialsHelp = `The credential comes from the environment only, since a command line shows in ps:
KOODRIVE_TOKEN; or KOODRIVE_TOKEN_FILE, read again when it changes; or KOODRIVE_TOKEN_URL, a broker that answers GET URL?user_id=… with {"token":…,"expires_in":seconds}. With --auth app: KOODRIVE_APP_ID, and KOODRIVE_APP_SECRET or KOODRIVE_APP_SECRET_FILE.`

// koodriveFlags say where KooDrive is and how to call it.
type koodriveFlags struct {
	URL          string        `name:"koodrive-url" env:"KOODRIVE_URL" group:"koodrive" placeholder:"URL" help:"Scheme and host, such as https://koodrive.example.com."`
	Auth         string        `env:"KOODRIVE_AUTH" group:"koodrive" enum:"token,app" default:"token" help:"${enum} (${default})."`
	TokenFormat  string        `name:"token-format" env:"KOODRIVE_TOKEN_FORMAT" group:"koodrive" default:"Bearer+{token}" placeholder:"FORMAT" help:"Authorization header (${default})."`
	CallTimeout  time.Duration `name:"call-timeout" env:"KOODRIVE_CALL_TIMEOUT" group:"koodrive" default:"30s" help:"For one call (${default})."`
	Rate         float64       `env:"KOODRIVE_RATE" group:"koodrive" placeholder:"N" help:"Requests a second, over all workers of this Redis together; 0 is no limit."`
	Reasons      []string      `name:"reason" env:"KOODRIVE_REASONS" group:"koodrive" placeholder:"CODE=REASON" help:"What a code means that the built-in table does not know, such as 13000999=invalid or APIG.0999=throttled; separated by commas."`
	InsecureHTTP bool          `name:"insecure-http" env:"KOODRIVE_INSECURE_HTTP" group:"koodrive" help:"Allow plain HTTP to another machine. The credential can be read on the way."`
}

// The variables that hold credentials, or say where they are.
const (
	envToken         = "KOODRIVE_TOKEN"
	envTokenFile     = "KOODRIVE_TOKEN_FILE"
	envTokenURL      = "KOODRIVE_TOKEN_URL"
	envAppID         = "KOODRIVE_APP_ID"
	envAppSecret     = "KOODRIVE_APP_SECRET"
	envAppSecretFile = "KOODRIVE_APP_SECRET_FILE"
)

// config makes the client's configuration. All its errors are about usage.
func (f koodriveFlags) config() (koodrive.Config, error) {
	if f.URL == "" {
		return koodrive.Config{}, usagef("--koodrive-url (KOODRIVE_URL) is missing; want a URL such as https://koodrive.example.com")
	}
	if f.CallTimeout <= 0 {
		return koodrive.Config{}, usagef("--call-timeout: %s; want more than 0, such as 30s", f.CallTimeout)
	}
	reasons, err := koodrive.ParseReasons(f.Reasons)
	if err != nil {
		return koodrive.Config{}, usagef("--reason: %w", err)
	}
	authorizer, err := f.authorizer()
	if err != nil {
		return koodrive.Config{}, usageError{err}
	}
	return koodrive.Config{
		BaseURL: f.URL, Authorizer: authorizer, CallTimeout: f.CallTimeout, InsecureHTTP: f.InsecureHTTP,
		Reasons: reasons, UserAgent: "kooworker/" + build().Version,
	}, nil
}

func (f koodriveFlags) authorizer() (koodrive.Authorizer, error) {
	if f.Auth == "app" {
		return f.app()
	}
	name, value, err := oneOf(envToken, envTokenFile, envTokenURL)
	if err != nil {
		return nil, err
	}
	var source koodrive.TokenSource
	switch name {
	case envToken:
		source, err = koodrive.StaticToken(value)
	case envTokenFile:
		source, err = koodrive.TokenFile(value)
	default:
		source, err = koodrive.TokenBroker(koodrive.BrokerConfig{URL: value, InsecureHTTP: f.InsecureHTTP})
	}
	if err != nil {
		return nil, usagef("%s: %w", name, err)
	}
	authorizer, err := koodrive.NewTokenAuthorizer(f.TokenFormat, source)
	if err != nil {
		return nil, usagef("--token-format: %w", err)
	}
	return authorizer, nil
}

func (f koodriveFlags) app() (koodrive.Authorizer, error) {
	name, value, err := oneOf(envAppSecret, envAppSecretFile)
	if err != nil {
		return nil, err
	}
	var secret koodrive.SecretSource
	if name == envAppSecret {
		secret, err = koodrive.StaticSecret(value)
	} else {
		secret, err = koodrive.SecretFile(value)
	}
	if err != nil {
		return nil, usagef("%s: %w", name, err)
	}
	authorizer, err := koodrive.NewAppAuthorizer(os.Getenv(envAppID), secret)
	if err != nil {
		return nil, usagef("%s: %w", envAppID, err)
	}
	return authorizer, nil
}

// oneOf returns the one variable of these that is set.
func oneOf(names ...string) (name, value string, err error) {
	for _, each := range names {
		v := os.Getenv(each)
		if v == "" {
			continue
		}
		if name != "" {
			return "", "", usagef("both %s and %s are set; want one of %v", name, each, names)
		}
		name, value = each, v
	}
	if name == "" {
		return "", "", usagef("no credential; want one of %v in the environment", names)
	}
	return name, value, nil
}
