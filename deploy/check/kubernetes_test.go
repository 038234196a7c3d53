package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

// TestCheckKubernetes_RefusesBrokenFile breaks the manifests, one change at a time, and
// wants the check to say what is wrong.
func TestCheckKubernetes_RefusesBrokenFile(t *testing.T) {
	t.Parallel()
	const (
		worker     = "base/worker.yaml"
		scheduler  = "base/scheduler.yaml"
		account    = "base/serviceaccount.yaml"
		policy     = "base/networkpolicy.yaml"
		base       = "base/kustomization.yaml"
		settings   = "base/settings.env"
		production = "overlays/production/kustomization.yaml"
		keda       = "components/keda/kustomization.yaml"
		scaled     = "components/keda/scaledobject.yaml"
		monitor    = "components/podmonitor/podmonitor.yaml"
		dashboard  = "components/dashboard/dashboard.yaml"
		door       = "components/dashboard/networkpolicy.yaml"
	)
	for name, tt := range map[string]struct {
		file     string
		old, new string
		want     string
	}{
		"not YAML":               {worker, "spec:\n", "spec: [\n", "yaml"},
		"unknown field":          {worker, "replicas: 2", "replica: 2", "replica"},
		"unknown nested field":   {worker, "periodSeconds: 10", "periodSecond: 10", "periodSecond"},
		"wrong type":             {worker, "containerPort: 8080", "containerPort: admin", "containerPort"},
		"unknown kind":           {policy, "kind: NetworkPolicy", "kind: NetPolicy", "NetPolicy"},
		"missing resource":       {base, "- worker.yaml", "- workers.yaml", "workers.yaml"},
		"unknown setting":        {base, "configMapGenerator:", "configMapsGenerator:", "configMapsGenerator"},
		"unused file":            {base, "  - networkpolicy.yaml\n", "", "no kustomization.yaml beside it names it"},
		"no policy":              {base, "  - networkpolicy.yaml\n", "", "want a NetworkPolicy"},
		"secret in a file":       {account, "kind: ServiceAccount", "kind: Secret", "a secret does not belong"},
		"root":                   {worker, "runAsUser: 65532", "runAsUser: 0", "may run as root"},
		"any user":               {worker, "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"},
		"system calls":           {worker, "type: RuntimeDefault", "type: Unconfined", "seccompProfile"},
		"service links":          {worker, "enableServiceLinks: false", "enableServiceLinks: true", "enableServiceLinks"},
		"host network":           {worker, "serviceAccountName: kooworker", "serviceAccountName: kooworker\n      hostNetwork: true", "shares the node's network"},
		"host path":              {worker, "      volumes:\n", "      volumes:\n        - {name: host, hostPath: {path: /}}\n", "a folder of the node"},
		"privileged":             {worker, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: true\n            privileged: true", "is privileged"},
		"escalation":             {worker, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "may gain privileges"},
		"writable":               {worker, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may write"},
		"capabilities":           {worker, "drop: [ALL]", "drop: [NET_RAW]", "keeps capabilities"},
		"no limit":               {worker, "limits:\n              memory: 512Mi", "limits: {}", "limit of memory"},
		"floating tag":           {scheduler, "image: kooworker:dev", "image: kooworker:latest", "name a version"},
		"secret in the open":     {settings, "KOOWORKER_LOG_FORMAT=json", "KOODRIVE_TOKEN=abc", "KOODRIVE_TOKEN has a value"},
		"password in the URL":    {settings, "redis://kooworker@", "redis://kooworker:pass@", "holds a password"},
		"variable of a Secret":   {worker, "value: token\n", "valueFrom: {secretKeyRef: {name: s, key: k}}\n", "comes from a Secret"},
		"variables of a Secret":  {worker, "- configMapRef:", "- secretRef:", "takes variables from a Secret"},
		"unknown ConfigMap":      {scheduler, "name: kooworker-settings", "name: kooworker-setting", "there is no ConfigMap"},
		"file is not mounted":    {worker, "path: koodrive-token", "path: token", "is not mounted"},
		"file never changes":     {worker, "readOnly: true", "readOnly: true\n              subPath: x", "is not mounted"},
		"file for everybody":     {worker, "defaultMode: 0440", "defaultMode: 0444", "is not mounted"},
		"short grace":            {worker, "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 29", "terminationGracePeriodSeconds"},
		"unknown shutdown":       {worker, "KOOWORKER_SHUTDOWN_TIMEOUT\n", "KOOWORKER_STARTUP_TIMEOUT\n", "want KOOWORKER_SHUTDOWN_TIMEOUT"},
		"restarts without Redis": {worker, "path: /healthz", "path: /readyz", "/healthz is not asked"},
		"no readiness":           {worker, "readinessProbe:", "startupProbe:", "/readyz is not asked"},
		"dashboard: readyz":      {dashboard, "readinessProbe:\n            httpGet:\n              path: /healthz", "readinessProbe:\n            httpGet:\n              path: /readyz", "/healthz is not asked"},
		"dashboard: no liveness": {dashboard, "livenessProbe:", "startupProbe:", "want a liveness probe"},
		"dashboard: open":        {dashboard, "            - name: KOOWORKER_DASHBOARD_USERS_FILE\n              value: /run/secrets/kooworker/dashboard-users\n", "", "it lets in everybody"},
		"dashboard: users":       {dashboard, "path: dashboard-users", "path: users", "is not mounted"},
		"dashboard: loopback":    {dashboard, `value: ":8090"`, `value: "127.0.0.1:8090"`, "KOOWORKER_DASHBOARD_ADDR"},
		"dashboard: other port":  {dashboard, `value: ":8090"`, `value: ":8091"`, "KOOWORKER_DASHBOARD_ADDR"},
		"dashboard: calls":       {dashboard, "              - secret:\n                  name: kooworker-dashboard\n", "              - secret: {name: kooworker-koodrive, items: [{key: token, path: t}]}\n              - secret:\n                  name: kooworker-dashboard\n", "has the token of KooDrive"},
		"dashboard: everybody":   {dashboard, "spec:\n  selector:\n    app", "spec:\n  type: LoadBalancer\n  selector:\n    app", "want type ClusterIP"},
		"service: unknown port":  {dashboard, "targetPort: http", "targetPort: admin", "no pod that it selects names such a port"},
		"service: unknown pods":  {dashboard, "spec:\n  selector:\n    app", "spec:\n  selector:\n    other: label\n    app", "no pod that it selects names such a port"},
		"service: unknown field": {dashboard, "targetPort:", "targetPorts:", "targetPorts"},
		"service: unreachable":   {door, "- port: 8090", "- port: 8080", "no network policy lets anybody reach it"},
		"dashboard: no policy":   {"components/dashboard/kustomization.yaml", "  - networkpolicy.yaml\n", "", "want a NetworkPolicy"},
		"component is not built": {production, "  - ../../components/dashboard\n", "", "components/dashboard: no overlay names it"},
		"unknown account":        {scheduler, "serviceAccountName: kooworker", "serviceAccountName: default", "service account"},
		"token":                  {account, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "has a token"},
		"token of the pod":       {worker, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "has a token"},
		"no budget":              {scheduler, "AlwaysAllow\n  selector:\n    matchLabels:\n", "AlwaysAllow\n  selector:\n    matchLabels:\n      other: label\n", "want a PodDisruptionBudget"},
		"node cannot drain":      {scheduler, "maxUnavailable: 1", "maxUnavailable: 0", "must let one pod go"},
		"egress is open":         {policy, "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "must limit Ingress and Egress"},
		"every peer":             {policy, "        - podSelector:\n            matchLabels:\n              app.kubernetes.io/name: redis\n", "        []\n", "is for every peer"},
		"every port":             {policy, "      ports:\n        - port: 6379\n", "", "every port"},
		"every pod":              {policy, "matchLabels:\n              app.kubernetes.io/name: redis", "matchLabels: {}", "selects every pod"},
		"labels in selectors":    {base, "resources:\n", "labels: [{pairs: {app.kubernetes.io/name: kooworker}, includeSelectors: true}]\nresources:\n", "leads to the pods of"},
		"every address":          {policy, "- port: 443", "- port: 80", "not for port 443"},
		"metadata service":       {policy, "169.254.0.0/16, ", "", "reaches 169.254.169.254"},
		"private IPv6":           {policy, `"fc00::/7", `, "", "reaches fd00::1"},
		"KEDA and replicas":      {keda, "op: remove\n        path: /spec/replicas", "op: replace\n        path: /spec/replicas\n        value: 3", "KEDA sets its replicas"},
		"KEDA to zero":           {scaled, "minReplicaCount: 1", "minReplicaCount: 0", "the last worker"},
		"KEDA without a query":   {scaled, "query:", "querie:", "KEDA's trigger"},
		"KEDA: unknown field":    {scaled, "pollingInterval", "poolingInterval", "poolingInterval"},
		"KEDA: unknown target":   {scaled, "scaleTargetRef:\n    name: kooworker-worker", "scaleTargetRef:\n    name: worker", "there is no deployment"},
		"spread: other pods":     {worker, "labelSelector:\n            matchLabels:\n              app", "labelSelector:\n            matchLabels:\n              other: label\n              app", "does not select its own pods"},
		"monitor: unknown port":  {monitor, "port: admin", "port: metrics", "no pod that it selects has such a port"},
		"monitor: unknown field": {monitor, "interval: 15s", "intervall: 15s", "intervall"},
		"patch without target":   {production, "path: /spec/egress/0/to", "path: /spec/egres/0/to", "egres"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(kubernetes)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, tt.file)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(text, []byte(tt.old)) {
				t.Fatalf("%s does not contain %q: the test is out of date", tt.file, tt.old)
			}
			if err := os.WriteFile(path, bytes.Replace(text, []byte(tt.old), []byte(tt.new), 1), 0o600); err != nil {
				t.Fatal(err)
			}

			problems, err := checkKubernetes(t.Context(), dir)

			said := strings.Join(problems, "\n")
			if err != nil {
				said += err.Error()
			}
			if !strings.Contains(said, tt.want) {
				t.Errorf("want a problem that mentions %q:\n%s", tt.want, said)
			}
		})
	}
}

// TestReadme_Ingress checks that the Ingress of the documentation leads to the dashboard.
func TestReadme_Ingress(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "```yaml\n  apiVersion: networking.k8s.io/v1\n")
	text, _, ended := strings.Cut(text, "```")
	if !found || !ended {
		t.Fatal("README.md has no Ingress: the test is out of date")
	}
	ingress, err := strictly[networkingv1.Ingress]([]byte("  apiVersion: networking.k8s.io/v1\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	m, err := build(filepath.Join(kubernetes, "overlays", "production"))
	if err != nil {
		t.Fatal(err)
	}
	service := m.services[0]
	to := ingress.Spec.Rules[0].HTTP.Paths[0].Backend.Service
	if to.Name != service.Name || to.Port.Name != service.Spec.Ports[0].Name {
		t.Errorf("it leads to %+v; want the service %s and its port %s", to, service.Name, service.Spec.Ports[0].Name)
	}
	if hosts := ingress.Spec.TLS[0].Hosts; len(hosts) != 1 || hosts[0] != ingress.Spec.Rules[0].Host {
		t.Errorf("its certificate is for %v; want %s", hosts, ingress.Spec.Rules[0].Host)
	}
}

// TestBuild_Production checks what a copy of the overlay gives: its own settings over
// those of the base, in every pod.
func TestBuild_Production(t *testing.T) {
	t.Parallel()
	m, err := build(filepath.Join(kubernetes, "overlays", "production"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kooworker-worker", "kooworker-scheduler", "kooworker-dashboard"} {
		d := m.deployments[name]
		if d == nil || d.Namespace != "kooworker" {
			t.Fatalf("%s: %v; want it in the namespace kooworker", name, d)
		}
		c := d.Spec.Template.Spec.Containers[0]
		if got := m.variables(c)["REDIS_URL"]; got != "rediss://kooworker@redis.example.com:6379/0" {
			t.Errorf("%s: REDIS_URL is %q; want the overlay's", name, got)
		}
		if !strings.HasPrefix(c.Image, "ghcr.io/kooworker/kooworker:v") {
			t.Errorf("%s: the image is %q; want the overlay's", name, c.Image)
		}
		if mode := d.Spec.Template.Spec.Volumes[0].Projected.DefaultMode; *mode != 0o440 {
			t.Errorf("%s: the credentials have mode %o; want 440", name, *mode)
		}
	}
	for _, p := range m.policies {
		if peers := p.Spec.Egress[0].To; len(peers) != 1 || peers[0].IPBlock == nil {
			t.Errorf("%s: %v; want the address of the overlay's Redis", p.Name, peers)
		}
	}
}
