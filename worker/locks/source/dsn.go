package source

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"
)

const encodeHint = "; in a URL, characters such as @ : / ? # % in the user or password are percent-encoded (@ is %40)"

// keyword matches the beginning of a PostgreSQL DSN of keywords and values.
var keyword = regexp.MustCompile(`^\s*(host|hostaddr|port|user|password|passfile|dbname|service|servicefile|sslmode|connect_timeout|application_name)\s*=`)

// parseDSN returns errors that show no part of the DSN.
func parseDSN(dsn string) (*dialect, error) {
	scheme, _, isURL := strings.Cut(dsn, "://")
	switch {
	case isURL && (scheme == "postgres" || scheme == "postgresql"):
		u, secrets, err := parseURL(dsn, postgresShape)
		if err != nil {
			return nil, err
		}
		return postgres(u.String(), secrets)
	case isURL && (scheme == "mysql" || scheme == "mariadb"):
		u, secrets, err := parseURL(dsn, mysqlShape)
		if err != nil {
			return nil, err
		}
		return mysqlURL(u, secrets)
	case keyword.MatchString(dsn):
		return postgres(dsn, nil)
	}
	// A password may contain anything, even ://.
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil || cfg.Net != "tcp" && cfg.Net != "unix" {
		return nil, &Error{message: "the DSN is neither one of PostgreSQL nor one of MySQL", hint: postgresShape + "; or " + mysqlShape}
	}
	return mysqlDialect(cfg, nil)
}

// parseURL also returns the secrets in the URL. The driver's own form of the
// password is not among them.
func parseURL(dsn, shape string) (*url.URL, []string, error) {
	u, err := url.Parse(dsn)
	switch {
	case err != nil,
		u.Opaque != "", strings.Contains(dsn, "#"),
		// Parsers disagree about where a password with an @ ends. If there is a / or
		// ? in it, its beginning can be taken for a port, and the rest would be shown.
		strings.Count(dsn, "@") > 1, u.User == nil && strings.Contains(dsn, "@"):
		return nil, nil, &Error{message: "the DSN is not a URL", hint: shape}
	}
	var secrets []string
	if password, ok := u.User.Password(); ok {
		_, raw, _ := strings.Cut(u.User.String(), ":")
		secrets = append(secrets, password, raw)
	}
	for _, name := range []string{"password", "sslpassword"} {
		secrets = append(secrets, u.Query().Get(name))
	}
	return u, secrets, nil
}

// mysqlURL turns a URL into the driver's own form of a DSN. The user and the
// password are set apart from it, since that form has no escapes.
func mysqlURL(u *url.URL, secrets []string) (*dialect, error) {
	if u.Hostname() == "" {
		return nil, &Error{message: "the DSN has no host", hint: mysqlShape}
	}
	cfg, err := mysql.ParseDSN("tcp(" + u.Host + ")" + "/" + strings.TrimPrefix(u.EscapedPath(), "/") + "?" + u.RawQuery)
	if err != nil {
		return nil, errNotMySQL
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	return mysqlDialect(cfg, secrets)
}

func isUTC(zone string) bool {
	return slices.Contains([]string{"UTC", "ETC/UTC", "GMT", "ETC/GMT", "Z", "+00:00"}, strings.ToUpper(zone))
}

func errTimeZone(name string) error {
	return &Error{
		message: "the DSN sets " + name + " to something other than UTC",
		hint:    "leave it out, and name the zone of columns that have none (--source-zone), or let the query convert: expires_at AT TIME ZONE '…' in PostgreSQL, CONVERT_TZ(expires_at, '…', '+00:00') in MySQL",
	}
}
