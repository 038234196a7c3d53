package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	composeFile = "../compose.yaml"
	dockerFile  = "../Dockerfile"
	releaseFile = "../Dockerfile.release"
	kubernetes  = "../kubernetes"
)

// TestRun_AcceptsDeployment is the check itself: the files in deploy must pass.
func TestRun_AcceptsDeployment(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{composeFile, dockerFile, releaseFile, kubernetes}, &stdout, &stderr); status != 0 {
		t.Errorf("exit status %d, want 0:\n%s", status, &stderr)
	}
}

// TestRun_RefusesBrokenFile breaks the files in deploy, one change at a time, and
// wants the check to say what is wrong.
func TestRun_RefusesBrokenFile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file     string
		old, new string
		want     string
	}{
		"compose: not YAML":           {composeFile, "services:\n", "services: [\n", "yaml"},
		"compose: unknown key":        {composeFile, "    user: redis\n", "    usr: redis\n", "usr"},
		"compose: wrong type":         {composeFile, "pids_limit: 512", "pids_limit: many", "pids_limit"},
		"compose: unknown secret":     {composeFile, "secrets: [koodrive-token]", "secrets: [token]", "token"},
		"compose: unknown network":    {composeFile, "networks: [queue, outside]", "networks: [queue, other]", "other"},
		"compose: one worker only":    {composeFile, "    networks: [queue, outside, monitoring]\n", "    networks: [queue, outside, monitoring]\n    ports: [\"127.0.0.1:8081:8080\"]\n", "--scale worker=3"},
		"compose: changes files":      {composeFile, "target: /input\n        read_only: true", "target: /input", "may change /input"},
		"compose: in a profile":       {composeFile, "127.0.0.1:9090:9090", "9090:9090", "port 9090 is published"},
		"compose: monitoring":         {composeFile, "networks: [monitoring, outside]", "networks: [monitoring, outside, queue]", "does not need it"},
		"compose: unknown service":    {composeFile, "      redis:\n        condition", "      rediss:\n        condition", "rediss"},
		"compose: writable":           {composeFile, "  read_only: true\n", "", "read_only"},
		"compose: capabilities":       {composeFile, "  cap_drop: [ALL]\n", "", "cap_drop"},
		"compose: privileges":         {composeFile, `["no-new-privileges:true"]`, "[]", "no-new-privileges"},
		"compose: every address":      {composeFile, "127.0.0.1:8090:8090", "8090:8090", "beyond this machine"},
		"compose: floating tag":       {composeFile, "prom/prometheus:v3.5.0", "prom/prometheus", "name a version"},
		"compose: secret in the open": {composeFile, "KOODRIVE_TOKEN_FILE: /run", "KOODRIVE_TOKEN: /run", "KOODRIVE_TOKEN has a value"},
		"compose: short grace":        {composeFile, "stop_grace_period: 40s", "stop_grace_period: 20s", "stop_grace_period"},
		"compose: redis reachable":    {composeFile, "internal: true", "internal: false", "not internal"},

		"compose: open dashboard":   {composeFile, "      KOOWORKER_DASHBOARD_USERS_FILE: /run/secrets/dashboard-users\n", "", "lets nobody in"},
		"compose: other users":      {composeFile, "_USERS_FILE: /run/secrets/dashboard-users", "_USERS_FILE: /run/secrets/users", "lets nobody in"},
		"compose: dashboard calls":  {composeFile, "secrets: [dashboard-users]", "secrets: [dashboard-users, koodrive-token]", "has the token of KooDrive"},
		"compose: a worker's check": {composeFile, "127.0.0.1:8090/healthz", "127.0.0.1:8080/readyz", "asks its own /healthz"},
		"compose: image's check":    {composeFile, `      test: [CMD, /usr/local/bin/kooworker, healthcheck, --url, "http://127.0.0.1:8090/healthz"]` + "\n", "", "asks its own /healthz"},

		"dockerfile: unknown instruction": {dockerFile, "WORKDIR", "WORKDIRR", "WORKDIRR"},
		"dockerfile: unknown stage":       {dockerFile, "--from=build", "--from=biuld", "biuld"},
		"dockerfile: bad flag":            {dockerFile, "--mount=type=cache,target=/go/pkg/mod \\\n    go", "--mont=type=cache \\\n    go", "mont"},
		"dockerfile: BuildKit's rules":    {dockerFile, "COPY . .", "copy . .", "ConsistentInstructionCasing"},
		"dockerfile: undeclared variable": {dockerFile, "dev\nARG REVISION=unknown\n", "dev\n", "UndefinedVar"},
		"dockerfile: root":                {dockerFile, "USER 65532:65532", "USER 0", "not 0"},
		"dockerfile: user by name":        {dockerFile, "USER 65532:65532", "USER nonroot", "by number"},
		"dockerfile: no health check":     {dockerFile, "HEALTHCHECK --interval=10s --timeout=5s --start-period=40s --retries=3 \\\n    CMD", "CMD", "HEALTHCHECK"},
		"dockerfile: health by shell":     {dockerFile, `CMD ["/usr/local/bin/kooworker", "healthcheck"]`, "CMD kooworker healthcheck", "HEALTHCHECK"},
		"dockerfile: other entrypoint":    {releaseFile, `ENTRYPOINT ["/usr/local/bin/kooworker"]`, `ENTRYPOINT ["/bin/kooworker"]`, "no file that the image holds"},
		"release: root":                   {releaseFile, "USER 65532:65532", "USER 0", "not 0"},
		"dockerfile: shell form":          {dockerFile, `ENTRYPOINT ["/usr/local/bin/kooworker"]`, "ENTRYPOINT kooworker", "JSON form"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{composeFile, dockerFile, releaseFile, kubernetes}
			for i, file := range args {
				if file == tt.file {
					args[i] = broken(t, file, tt.old, tt.new)
				}
			}

			var stdout, stderr bytes.Buffer
			status := run(t.Context(), args, &stdout, &stderr)

			if status != 1 || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit status %d, want 1 and a problem that mentions %q:\n%s", status, tt.want, &stderr)
			}
		})
	}
}

// TestLoadCompose_RequiredSettings checks that no service starts without the
// settings that an operator must make.
func TestLoadCompose_RequiredSettings(t *testing.T) {
	t.Parallel()
	for i := range settings {
		left := append(append([]string{}, settings[:i]...), settings[i+1:]...)
		name, _, _ := strings.Cut(settings[i], "=")
		if _, err := loadCompose(t.Context(), composeFile, left, "*"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v, want an error that names it", name, err)
		}
	}
}

// TestLoadCompose_Profiles checks which services start by themselves: those that need no file
// but the token.
func TestLoadCompose_Profiles(t *testing.T) {
	t.Parallel()
	for profile, want := range map[string][]string{
		"": {"redis", "worker"}, "dashboard": {"dashboard", "redis", "worker"}, "scheduler": {"redis", "scheduler", "worker"}, "monitoring": {"grafana", "prometheus", "redis", "worker"},
	} {
		project, err := loadCompose(t.Context(), composeFile, settings, profile)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(slices.Values(project.ServiceNames())); !slices.Equal(got, want) {
			t.Errorf("profile %q: %v start; want %v", profile, got, want)
		}
	}
}

// broken copies a file with one text replaced.
func broken(t *testing.T, file, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(from)) {
		t.Fatalf("%s does not contain %q: the test is out of date", file, from)
	}
	name := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(name, bytes.Replace(text, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
