package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kooworker/kooworker/internal/humanize"
	"github.com/kooworker/kooworker/tasks"
	"github.com/kooworker/kooworker/worker/koodrive"
)

// KooDrive says how KooDrive is called.
type KooDrive struct {
	// Client is the configuration of the workers' client.
	Client koodrive.Config
	// Problem is why Client cannot be made of the settings; nil if it can.
	Problem error
	// Auth, Format and Source describe the credential: "token" or "app", the form of the header
	// with a placeholder, and where the secret comes from. None of them is a secret.
	Auth, Format, Source string
	// File is the file of the secret; "" if it is in none.
	File string
	// UserID is the user to ask for. Default: one that does not exist.
	UserID string
}

const (
	// nobody is a user that does not exist.
	nobody = "kooworker-doctor"
	// probeLimit is for a call to KooDrive, which may be made twice.
	probeLimit = 20 * time.Second
	// skewWarning is the difference of clocks from which a call may be refused once, and
	// skewError the one from which KooDrive refuses every call that it knows no better.
	skewWarning = 5 * time.Second
	skewError   = 15 * time.Minute
	// certificateWarning and certificateError are how long before its end a certificate is told.
	certificateWarning = 21 * 24 * time.Hour
	certificateError   = 3 * 24 * time.Hour
)

// The names of the checks of KooDrive, in their order.
const (
	reachableName  = "koodrive.reachable"
	tlsName        = "koodrive.tls"
	urlName        = "koodrive.url"
	clockName      = "koodrive.clock"
	credentialName = "koodrive.credential" //nolint:gosec // G101: the name of a check
)

// koodrive makes one harmless call, and says what it tells of each subject.
func (d *Doctor) koodrive(ctx context.Context) []Finding {
	k := d.cfg.KooDrive
	switch {
	case k == nil:
		return skippedKooDrive("no --koodrive-url (KOODRIVE_URL) was given", "give the URL and the credential of the workers as well: kooworker doctor --koodrive-url URL")
	case k.Problem != nil:
		hint := "the flags and variables are those of kooworker worker; kooworker help worker lists them"
		return append([]Finding{{Name: "koodrive.settings", Status: Error, Detail: "KooDrive cannot be called with these settings: " + k.Problem.Error(), Hint: hint}},
			skippedKooDrive("the settings are wrong", "")...)
	}
	user, isInvented := k.UserID, false
	if user == "" {
		user, isInvented = nobody, true
	}
	client, err := koodrive.New(k.Client)
	if err != nil {
		return append([]Finding{{Name: urlName, Status: Error, Detail: err.Error(), Hint: "correct --koodrive-url"}}, skippedKooDrive("the settings are wrong", "")...)
	}
	defer client.CloseIdleConnections()
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	p := client.Probe(limited, user)
	if ctx.Err() != nil {
		return skippedKooDrive("interrupted", "")
	}
	return []Finding{
		named(reachableName, k.reached(p)), named(tlsName, k.tls(p, time.Now())), named(urlName, k.url(p)),
		named(clockName, skew(p)), named(credentialName, k.credential(p, isInvented)),
	}
}

func named(name string, f Finding) Finding {
	f.Name = name
	return f
}

func skippedKooDrive(why, hint string) (out []Finding) {
	for _, name := range []string{reachableName, tlsName, urlName, clockName, credentialName} {
		out = append(out, Finding{Name: name, Status: Skipped, Detail: why, Hint: hint})
		hint = "" // once is enough
	}
	return out
}

// reached says whether KooDrive, or whoever is at that URL, answers.
func (k *KooDrive) reached(p koodrive.Probe) Finding {
	switch {
	case p.Status == 0 && (p.Reason == tasks.Unauthorized || p.Reason == tasks.Forbidden):
		return Finding{Status: Skipped, Detail: "there is no credential to call with: see " + credentialName}
	case p.CertificateProblem != "":
		return Finding{Status: Skipped, Detail: "the certificate is refused: see " + tlsName}
	case p.Status == 0 && p.Connected != "":
		return wrong(connectedHint(p), "KooDrive does not answer: %s; the connection to %s was made", p.Detail(), p.Connected)
	case p.Status == 0:
		return wrong(tasks.Network.Hint(), "KooDrive does not answer: %s", p.Detail())
	case p.Reason == tasks.Upstream || p.Reason == tasks.TimedOut:
		return wrong(p.Reason.Hint(), "KooDrive, or a server in front of it, is in trouble: %s", p.Detail())
	default:
		return Finding{Status: OK, Detail: fmt.Sprintf("a server answers at that URL, in %s", humanize.Round(p.RoundTrip))}
	}
}

// connectedHint is for a call that came as far as a connection. So it has nothing to say of names
// and firewalls.
func connectedHint(p koodrive.Probe) string {
	switch {
	case !p.Sent:
		return "TLS was not agreed on: check the port in --koodrive-url, whether what listens there speaks TLS, and what a proxy on the way lets through (HTTPS_PROXY, NO_PROXY)"
	case p.Reason == tasks.TimedOut:
		return "what listens there takes the request and answers nothing: tell the operators of KooDrive, or of the proxy or load balancer at that address; if it is only slow, raise --call-timeout"
	default:
		return "what listens there closes the connection without an answer: check the port in --koodrive-url, and look at the log of that server, proxy or load balancer"
	}
}

// tls judges the certificate.
func (k *KooDrive) tls(p koodrive.Probe, now time.Time) Finding {
	isPlain := strings.HasPrefix(strings.ToLower(k.Client.BaseURL), "http:")
	switch {
	case p.WrongHost:
		return wrong(hostHint(p.CertificateNames), "the certificate of KooDrive is refused: %s", p.CertificateProblem)
	case p.CertificateProblem != "":
		return wrong("if the authority is your own, add its certificate to this machine and to the workers' image (SSL_CERT_FILE, or update-ca-certificates); otherwise have the certificate renewed",
			"the certificate of KooDrive is refused: %s", p.CertificateProblem)
	case isPlain && k.Client.InsecureHTTP:
		return warning("use https, and take --insecure-http away", "plain HTTP: whoever sees the traffic sees the credential")
	case isPlain:
		return Finding{Status: OK, Detail: "plain HTTP to this machine needs no certificate"}
	case p.Server == nil:
		return Finding{Status: Skipped, Detail: "no answer"}
	}
	left := p.Server.NotAfter.Sub(now)
	detail := fmt.Sprintf("%s; the certificate is valid for %s more, until %s", p.TLSVersion, humanize.Age(left), p.Server.NotAfter.UTC().Format(time.DateOnly))
	const hint = "have the certificate renewed before that: afterwards every call fails"
	switch {
	case left < certificateError:
		return wrong(hint, "%s", detail)
	case left < certificateWarning:
		return warning(hint, "%s", detail)
	default:
		return Finding{Status: OK, Detail: detail}
	}
}

// mostNames is how many names of a certificate are told.
const mostNames = 5

// hostHint is for a certificate that does not name the host of the URL.
func hostHint(names []string) string {
	const check = "check the host in --koodrive-url: "
	named := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	if len(named) == 0 {
		return check + "the certificate names no host (Subject Alternative Name); if the host is right, have one issued that names it"
	}
	text := strings.Join(named[:min(len(named), mostNames)], ", ")
	if more := len(named) - mostNames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return check + "the certificate is for " + text + "; if the host is right, another server answers there, or the certificate lacks its name"
}

// url says whether the answer is KooDrive's.
func (k *KooDrive) url(p koodrive.Probe) Finding {
	switch {
	case p.Status == 0:
		return Finding{Status: Skipped, Detail: "no answer"}
	case p.Reason == tasks.Misrouted || p.Reason == tasks.Protocol:
		return wrong(tasks.Misrouted.Hint(), "what answers at --koodrive-url is not KooDrive's API: %s", p.Detail())
	case p.Code == "" && !p.AcceptsCredential():
		return Finding{Status: Skipped, Detail: "the answer does not tell: " + p.Detail()}
	default:
		return Finding{Status: OK, Detail: "the answer is KooDrive's, or its gateway's"}
	}
}

// skew compares the clocks.
func skew(p koodrive.Probe) Finding {
	if !p.Dated {
		return Finding{Status: Skipped, Detail: "no answer with a Date"}
	}
	detail := fmt.Sprintf("%s, give or take %s", compared(p.Ahead, "KooDrive's clock"), humanize.Round(p.Within))
	const hint = "let NTP set this machine's clock (timedatectl status); if redis.clock is well, KooDrive's clock is wrong, or that of a proxy"
	switch beyond := p.Ahead.Abs() - p.Within; {
	case beyond > skewError:
		return wrong(hint, "%s: KooDrive refuses calls whose date is off by more than %s", detail, "15 minutes")
	case beyond > skewWarning:
		return warning(hint, "%s", detail)
	default:
		return Finding{Status: OK, Detail: detail}
	}
}

// credential says whether KooDrive accepts the credential, and if not, what was sent.
func (k *KooDrive) credential(p koodrive.Probe, isInvented bool) Finding {
	switch {
	case p.Status == 0 && p.Reason == tasks.Forbidden && isInvented:
		return Finding{Status: Skipped, Detail: "the token broker has no token for the invented user " + nobody + ", as it should be", Hint: "name a user that exists: kooworker doctor --user-id USER"}
	case p.Status == 0 && (p.Reason == tasks.Forbidden || p.Reason == tasks.Unauthorized):
		return wrong(k.credentialHint(), "there is no credential to call with: %s. %s", p.Detail(), k.describe())
	case p.Reason == tasks.Unauthorized:
		return wrong(k.credentialHint(), "KooDrive refuses the credential: %s. %s", p.Detail(), k.describe())
	case p.Reason == tasks.Forbidden && !isInvented:
		return wrong(p.Hint(), "the credential may not act for user %s: %s. %s", k.UserID, p.Detail(), k.describe())
	case p.AcceptsCredential():
		return Finding{Status: OK, Detail: "KooDrive accepts the credential. " + k.describe()}
	case p.Reason == tasks.Throttled:
		return Finding{Status: Skipped, Detail: "KooDrive answers that there are too many calls: " + p.Detail(), Hint: "try again in a minute"}
	default:
		return Finding{Status: Skipped, Detail: "nobody has looked at the credential: the answer is not KooDrive's, or there is none"}
	}
}

func (k *KooDrive) credentialHint() string {
	hint := "give the workers a credential that KooDrive accepts, and run kooworker doctor again. "
	if k.Auth == "app" {
		return hint + "Compare the app id with the gateway's list, and the secret with what was issued; the signature also fails if a proxy rewrites Host or the path, or if the clocks differ by more than 15 minutes"
	}
	return hint + "If the token is right, its form may be wrong: besides Bearer+{token}, the vendor's pages show 'Bearer {token}', 'AT {token}' and '{token}' (--token-format)"
}

// describe says what was sent, without any secret.
func (k *KooDrive) describe() string {
	text := fmt.Sprintf("Authorization is %q (--auth %s), from %s", k.Format, k.Auth, k.Source)
	if k.File == "" {
		return text
	}
	info, err := os.Stat(k.File)
	if err != nil {
		return text + ", which cannot be read"
	}
	return text + fmt.Sprintf(", which was changed %s ago", humanize.Age(time.Since(info.ModTime())))
}
