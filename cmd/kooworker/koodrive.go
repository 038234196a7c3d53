package main

import (
	"os"
	"time"

	"github.com/kooworker/kooworker/worker/koodrive"
)

//nolint:gosec // G101: the names of variables, not their values
const credentialsHelp = `The credential comes from the environment only, because ps shows command lines:
KOODRIVE_TOKEN; or KOODRIVE_TOKEN_FILE, which is read again when it changes; or KOODRIVE_TOKEN_URL, a broker that answers GET URL?user_id=… with {"token":…,"expires_in":seconds}, or with 403, 404 or 410 and a JSON object if it has no token for the user. With --auth app: KOODRIVE_APP_ID, and KOODRIVE_APP_SECRET or KOODRIVE_APP_SECRET_FILE.`

// koodriveFlags say where KooDrive is and how it is called.
type koodriveFlags struct {
	URL          string        `name:"koodrive-url" env:"KOODRIVE_URL" placeholder:"URL" help:"Scheme and host, such as https://koodrive.example.com."`
	Auth         string        `env:"KOODRIVE_AUTH" enum:"token,app" default:"token" help:"How calls are authorized: ${enum} (${default})."`
	TokenFormat  string        `name:"token-format" env:"KOODRIVE_TOKEN_FORMAT" default:"Bearer+{token}" placeholder:"FORMAT" help:"Authorization header (${default})."`
	CallTimeout  time.Duration `name:"call-timeout" env:"KOODRIVE_CALL_TIMEOUT" default:"30s" help:"Time-out of one call (${default})."`
	Rate         float64       `env:"KOODRIVE_RATE" placeholder:"N" help:"Limit of requests a second, for all workers of this Redis together; 0 is no limit."`
	QuotaHeaders bool          `name:"quota-headers" env:"KOODRIVE_QUOTA_HEADERS" help:"Ask the gateway for its quota once a second, by the header X-Apig-Mode: debug on a call. It is not known whether KooDrive's gateway answers."`
	TraceHeader  string        `name:"trace-header" env:"KOODRIVE_TRACE_HEADER" placeholder:"NAME" help:"Send the trace ID of a task with each of its calls, in this header, such as X-Traceid. Log lines have it as trace_id, whether or not traces are exported. Default: none is sent."`
	Reasons      []string      `name:"reason" env:"KOODRIVE_REASONS" placeholder:"CODE=REASON" help:"Meaning of a code that the built-in table does not have, such as 13000999=invalid or APIG.0999=throttled; separated by commas."`
	InsecureHTTP bool          `name:"insecure-http" env:"KOODRIVE_INSECURE_HTTP" help:"Allow plain HTTP to another machine. Others on the network can read the credential."`
}

// config returns the client's configuration. All its errors are usage errors.
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
		return koodrive.Config{}, err
	}
	return koodrive.Config{
		BaseURL: f.URL, Authorizer: authorizer, CallTimeout: f.CallTimeout, InsecureHTTP: f.InsecureHTTP,
		Reasons: reasons, QuotaHeaders: f.QuotaHeaders, TraceHeader: f.TraceHeader, UserAgent: "kooworker/" + build().Version,
	}, nil
}

func (f koodriveFlags) authorizer() (koodrive.Authorizer, error) {
	if f.Auth == "app" {
		return f.app()
	}
	source, err := fromEnv([]variable[koodrive.TokenSource]{
		{"KOODRIVE_TOKEN", koodrive.StaticToken},
		{"KOODRIVE_TOKEN_FILE", koodrive.TokenFile},
		{"KOODRIVE_TOKEN_URL", func(url string) (koodrive.TokenSource, error) {
			return koodrive.TokenBroker(koodrive.BrokerConfig{URL: url, InsecureHTTP: f.InsecureHTTP})
		}},
	})
	if err != nil {
		return nil, err
	}
	authorizer, err := koodrive.NewTokenAuthorizer(f.TokenFormat, source)
	if err != nil {
		return nil, usagef("--token-format: %w", err)
	}
	return authorizer, nil
}

func (f koodriveFlags) app() (koodrive.Authorizer, error) {
	secret, err := fromEnv([]variable[koodrive.SecretSource]{
		{"KOODRIVE_APP_SECRET", koodrive.StaticSecret},
		{"KOODRIVE_APP_SECRET_FILE", koodrive.SecretFile},
	})
	if err != nil {
		return nil, err
	}
	authorizer, err := koodrive.NewAppAuthorizer(os.Getenv("KOODRIVE_APP_ID"), secret)
	if err != nil {
		return nil, usagef("KOODRIVE_APP_ID: %w", err)
	}
	return authorizer, nil
}

// variable is an environment variable, and what makes a T of its value.
type variable[T any] struct {
	name string
	read func(value string) (T, error)
}

// fromEnv reads the variable that is set. It is a usage error if none is set, or
// several are.
func fromEnv[T any](variables []variable[T]) (result T, err error) {
	var names []string
	var set []variable[T]
	for _, v := range variables {
		names = append(names, v.name)
		if os.Getenv(v.name) != "" {
			set = append(set, v)
		}
	}
	switch len(set) {
	case 0:
		return result, usagef("no credential; want one of %v in the environment", names)
	case 1:
		if result, err = set[0].read(os.Getenv(set[0].name)); err != nil {
			err = usagef("%s: %w", set[0].name, err)
		}
		return result, err
	default:
		return result, usagef("both %s and %s are set; want one of %v", set[0].name, set[1].name, names)
	}
}
