package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kooworker/kooworker/internal/redistest"
)

// prometheusServer is a real Prometheus with the alert rules of deploy/prometheus. It
// scrapes and evaluates each second. Every `for` of the rules is a few seconds long.
type prometheusServer struct {
	t       *testing.T
	dir     string
	url     string
	targets int
}

const rulesFile = "../../deploy/prometheus/kooworker.rules.yaml"

var (
	forLine    = regexp.MustCompile(`(?m)^( +for: ).+$`)
	listening  = regexp.MustCompile(`Listening on.* address=(\S+)`)
	adminAddr  = regexp.MustCompile(`admin server listens.*"addr":"([^"]+)"`)
	httpClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
)

// startPrometheus starts one that scrapes nothing yet.
func startPrometheus(t *testing.T) *prometheusServer {
	t.Helper()
	p := &prometheusServer{t: t, dir: t.TempDir()}
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	p.write("rules.yaml", forLine.ReplaceAllString(string(rules), "${1}5s"))
	p.write("prometheus.yaml", fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%[1]s/rules.yaml]
scrape_configs:
- job_name: kooworker
  file_sd_configs: [{files: ["%[1]s/target-*.json"], refresh_interval: 1s}]
`, p.dir))
	output, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(findTool(t, "prometheus"), "--config.file="+filepath.Join(p.dir, "prometheus.yaml"),
		"--web.listen-address=127.0.0.1:0", "--storage.tsdb.path="+filepath.Join(p.dir, "data"))
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = output.Close() })
	redistest.Eventually(t, 60*time.Second, "Prometheus listens", func() bool {
		text, _ := os.ReadFile(output.Name())
		m := listening.FindSubmatch(text)
		if m != nil {
			p.url = "http://" + strings.Trim(string(m[1]), `"`)
		}
		return m != nil && p.isReady()
	})
	return p
}

// findTool finds a program of Prometheus, on PATH or where .ci/need unpacks it.
func findTool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs("../../bin/tools/" + name)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("this test needs %s, and none is on PATH; `make test` has it, and so does: .ci/need %[1]s", name)
	}
	return path
}

func (p *prometheusServer) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *prometheusServer) isReady() bool {
	resp, err := httpClient.Get(p.url + "/-/ready")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// scrape lets it scrape a process of kooworker from now on, as one of a fleet, and waits
// until it has.
func (p *prometheusServer) scrape(fleet string, process *process) {
	p.t.Helper()
	var addr string
	redistest.Eventually(p.t, 60*time.Second, "the admin server of a process in fleet "+fleet+" listens", func() bool {
		if m := adminAddr.FindStringSubmatch(process.log()); m != nil {
			addr = m[1]
		}
		return addr != ""
	})
	p.targets++
	text, err := json.Marshal([]any{map[string]any{"targets": []string{addr}, "labels": map[string]string{"namespace": fleet}}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(fmt.Sprintf("target-%d.json", p.targets), string(text))
	p.await(fmt.Sprintf(`up{namespace=%q,instance=%q} == 1`, fleet, addr))
}

// await waits until a query has a result.
func (p *prometheusServer) await(query string) {
	p.t.Helper()
	redistest.Eventually(p.t, 2*time.Minute, "Prometheus answers "+query, func() bool { return len(p.query(query)) > 0 })
}

// series is one series of an answer.
type series struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
}

// query returns the result of a query. It fails the test if Prometheus refuses it.
func (p *prometheusServer) query(query string) (out []series) {
	p.t.Helper()
	var data struct{ Result []series }
	p.get("/api/v1/query?query="+url.QueryEscape(query), &data)
	return data.Result
}

// alert is an alert as Prometheus tells it.
type alert struct {
	Labels      map[string]string
	Annotations map[string]string
	State       string
}

func (p *prometheusServer) alerts() []alert {
	p.t.Helper()
	var data struct{ Alerts []alert }
	p.get("/api/v1/alerts", &data)
	return data.Alerts
}

// names returns the names of all metrics that it has scraped.
func (p *prometheusServer) names() (names []string) {
	p.t.Helper()
	p.get("/api/v1/label/__name__/values", &names)
	return names
}

// get decodes the data of an answer.
func (p *prometheusServer) get(path string, data any) {
	p.t.Helper()
	resp, err := httpClient.Get(p.url + path)
	if err != nil {
		p.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	answer := struct {
		Status string `json:"status"`
		Data   any    `json:"data"`
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("Prometheus answers %s to %s; want success (%v)", body, path, err)
	}
}
