package main

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// podConfinement demands what the profile "restricted" of Pod Security asks for, a
// read-only file system, and nothing of the node.
func podConfinement(pod corev1.PodSpec) (problems []string) {
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		problems = append(problems, "shares the node's network, processes or memory")
	}
	s := pod.SecurityContext
	if s == nil || !isTrue(s.RunAsNonRoot) || s.RunAsUser == nil || *s.RunAsUser == 0 {
		problems = append(problems, "may run as root: runAsNonRoot, and a runAsUser that is not 0")
	}
	if s == nil || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		problems = append(problems, "filters no system calls: seccompProfile RuntimeDefault")
	}
	if !isFalse(pod.EnableServiceLinks) {
		problems = append(problems, "a Service named kooworker would set variables KOOWORKER_…: enableServiceLinks false")
	}
	for _, volume := range pod.Volumes {
		if volume.HostPath != nil {
			problems = append(problems, "mounts a folder of the node")
		}
	}
	for _, c := range containersOf(pod) {
		for _, problem := range containerConfinement(c) {
			problems = append(problems, "container "+c.Name+": "+problem)
		}
	}
	return problems
}

func containersOf(pod corev1.PodSpec) []corev1.Container {
	return slices.Concat(pod.InitContainers, pod.Containers)
}

func containerConfinement(c corev1.Container) (problems []string) {
	s := c.SecurityContext
	if s == nil {
		return []string{"has no securityContext"}
	}
	if isTrue(s.Privileged) {
		problems = append(problems, "is privileged")
	}
	if !isFalse(s.AllowPrivilegeEscalation) {
		problems = append(problems, "may gain privileges: allowPrivilegeEscalation false")
	}
	if !isTrue(s.ReadOnlyRootFilesystem) {
		problems = append(problems, "may write to its own file system: readOnlyRootFilesystem true")
	}
	if s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
		problems = append(problems, "keeps capabilities: drop [ALL] and add none")
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
		problems = append(problems, "want requests of cpu and memory, and a limit of memory")
	}
	image, err := reference.ParseNormalizedNamed(c.Image)
	if err != nil {
		return append(problems, fmt.Sprintf("image %q: %v", c.Image, err))
	}
	tagged, ok := image.(reference.Tagged)
	if _, digested := image.(reference.Digested); !digested && (!ok || tagged.Tag() == "latest") {
		problems = append(problems, fmt.Sprintf("image %q changes by itself: name a version", c.Image))
	}
	return problems
}

// secretName matches a variable that would hold a secret, and not the path or address
// of one.
var secretName = regexp.MustCompile(`TOKEN|SECRET|PASSWORD|DSN`)

// podCredentials demands that secrets come as files: no variable holds one, and none
// comes from a Secret. A variable that names a file must name one that is mounted.
func podCredentials(m *manifests, pod corev1.PodSpec) (problems []string) {
	for _, c := range containersOf(pod) {
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil {
				problems = append(problems, "container "+c.Name+": takes variables from a Secret; mount it")
			}
			if from.ConfigMapRef != nil && m.configMaps[from.ConfigMapRef.Name] == nil {
				problems = append(problems, "container "+c.Name+": there is no ConfigMap "+from.ConfigMapRef.Name)
			}
		}
		for _, v := range c.Env {
			if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
				problems = append(problems, "container "+c.Name+": "+v.Name+" comes from a Secret; mount it")
			}
		}
		for name, value := range m.variables(c) {
			isFile := strings.HasSuffix(name, "_FILE")
			switch {
			case isFile && !mounted(pod, c, value):
				problems = append(problems, fmt.Sprintf("container %s: %s names %s, which is not mounted", c.Name, name, value))
			case secretName.MatchString(name) && !isFile && !strings.HasSuffix(name, "_URL") && !strings.HasSuffix(name, "_FORMAT"):
				problems = append(problems, "container "+c.Name+": "+name+" has a value: mount a Secret")
			case strings.HasSuffix(name, "_URL") && passwordInURL.MatchString(value):
				problems = append(problems, "container "+c.Name+": "+name+" holds a password: mount a Secret")
			}
		}
	}
	return problems
}

var passwordInURL = regexp.MustCompile(`://[^/@]*:[^/@]*@`)

// variables returns what a container is started with. Single variables go before those
// of a ConfigMap.
func (m *manifests) variables(c corev1.Container) map[string]string {
	out := map[string]string{}
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef == nil || m.configMaps[from.ConfigMapRef.Name] == nil {
			continue
		}
		for name, value := range m.configMaps[from.ConfigMapRef.Name].Data {
			out[from.Prefix+name] = value
		}
	}
	for _, v := range c.Env {
		out[v.Name] = v.Value
	}
	return out
}

// mounted reports whether a path is a file of a Secret that the container mounts as a
// whole folder, so that a new secret arrives.
func mounted(pod corev1.PodSpec, c corev1.Container, path string) bool {
	for _, mount := range c.VolumeMounts {
		file, ok := strings.CutPrefix(path, mount.MountPath+"/")
		if !ok || mount.SubPath != "" || !mount.ReadOnly {
			continue
		}
		for _, volume := range pod.Volumes {
			if volume.Name != mount.Name || volume.Projected == nil {
				continue
			}
			for _, source := range volume.Projected.Sources {
				if source.Secret != nil && slices.ContainsFunc(source.Secret.Items, func(item corev1.KeyToPath) bool { return item.Path == file }) {
					return volume.Projected.DefaultMode != nil && *volume.Projected.DefaultMode&0o007 == 0
				}
			}
		}
	}
	return false
}

// podGrace demands that the kubelet waits until a worker has put its tasks back before
// it kills the worker.
func podGrace(m *manifests, pod corev1.PodSpec) (problems []string) {
	const variable = "KOOWORKER_SHUTDOWN_TIMEOUT"
	for _, c := range pod.Containers {
		value, ok := m.variables(c)[variable]
		if !ok {
			if slices.Equal(c.Args, []string{"worker"}) {
				problems = append(problems, "want "+variable+", so that the grace period can be compared with it")
			}
			continue
		}
		timeout, err := time.ParseDuration(value)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", variable, err))
			continue
		}
		// The worker takes some seconds more to put the tasks back.
		const margin = 5 * time.Second
		if s := pod.TerminationGracePeriodSeconds; s == nil || time.Duration(*s)*time.Second < timeout+margin {
			problems = append(problems, fmt.Sprintf("terminationGracePeriodSeconds must be %s longer than %s, which is %s", margin, variable, timeout))
		}
	}
	return problems
}

// podProbes demands that whoever serves something is asked by the kubelet, at the right
// paths: a liveness probe at /readyz would restart all workers when Redis is away. The
// dashboard has no /readyz, because its pages say themselves that Redis is away.
func podProbes(pod corev1.PodSpec) (problems []string) {
	for _, c := range pod.Containers {
		if len(c.Ports) == 0 {
			continue
		}
		ready := "/readyz"
		if isDashboard(c.Args) {
			ready = "/healthz"
		}
		for _, want := range []struct {
			name, path string
			probe      *corev1.Probe
		}{{"liveness", "/healthz", c.LivenessProbe}, {"readiness", ready, c.ReadinessProbe}} {
			if get := want.probe; get == nil || get.HTTPGet == nil || get.HTTPGet.Path != want.path || !hasPort(c, get.HTTPGet.Port.String()) {
				problems = append(problems, fmt.Sprintf("container %s: want a %s probe at a port that it names; %s is not asked", c.Name, want.name, want.path))
			}
		}
	}
	return problems
}

func hasPort(c corev1.Container, name string) bool {
	return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
}

// account demands a service account of its own, whose token is not mounted.
func (m *manifests) account(pod corev1.PodSpec) (problems []string) {
	account := m.accounts[pod.ServiceAccountName]
	if account == nil {
		return []string{fmt.Sprintf("there is no service account %q", pod.ServiceAccountName)}
	}
	if !isFalse(account.AutomountServiceAccountToken) || !isFalse(pod.AutomountServiceAccountToken) {
		problems = append(problems, "has a token of the API server: automountServiceAccountToken false")
	}
	return problems
}

// budget demands that one disruption budget covers the pods, and still lets a node drain.
func (m *manifests) budget(pod map[string]string) []string {
	for _, b := range m.budgets {
		if matches(b.Spec.Selector, pod) {
			if b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntValue() < 1 {
				return []string{"its disruption budget must let one pod go: maxUnavailable 1"}
			}
			return nil
		}
	}
	return []string{"want a PodDisruptionBudget"}
}

// policy demands that a network policy limits both directions.
func (m *manifests) policy(pod map[string]string) []string {
	for _, p := range m.policies {
		if matches(&p.Spec.PodSelector, pod) {
			if !slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) || !slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
				return []string{"its network policy must limit Ingress and Egress"}
			}
			return nil
		}
	}
	return []string{"want a NetworkPolicy"}
}

// reachesOthers demands that no rule leads from pods of this project to pods of it: kustomize
// would make that of a rule for Redis, if it were told to add labels to all selectors.
func (m *manifests) reachesOthers(p *networkingv1.NetworkPolicy) (problems []string) {
	for i, rule := range p.Spec.Egress {
		for _, peer := range rule.To {
			if peer.PodSelector == nil {
				continue
			}
			for _, d := range m.deployments {
				if matches(peer.PodSelector, d.Spec.Template.Labels) || peer.PodSelector.MatchLabels["app.kubernetes.io/name"] == d.Spec.Template.Labels["app.kubernetes.io/name"] {
					problems = append(problems, fmt.Sprintf("egress rule %d: leads to the pods of %s itself", i, d.Name))
				}
			}
		}
	}
	return problems
}

// policyLimits demands that each rule names peers and ports, that a rule for every address
// leaves out private ones, and that it is for HTTPS only.
func policyLimits(p *networkingv1.NetworkPolicy) (problems []string) {
	for i, rule := range p.Spec.Egress {
		problems = append(problems, peerLimits(fmt.Sprintf("egress rule %d", i), rule.To, rule.Ports)...)
	}
	for i, rule := range p.Spec.Ingress {
		problems = append(problems, peerLimits(fmt.Sprintf("ingress rule %d", i), rule.From, rule.Ports)...)
	}
	return problems
}

// privateNets must not be reached by a rule for every address: the metadata service of a
// cloud is among them.
var privateNets = []string{"10.0.0.1", "100.64.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1", "fd00::1", "fe80::1"}

func peerLimits(rule string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (problems []string) {
	if len(peers) == 0 || len(ports) == 0 {
		return []string{rule + ": is for every peer or every port; name them"}
	}
	for _, peer := range peers {
		if peer.IPBlock == nil {
			if empty(peer.PodSelector) && empty(peer.NamespaceSelector) {
				problems = append(problems, rule+": its selector selects every pod")
			}
			continue
		}
		block, err := netip.ParsePrefix(peer.IPBlock.CIDR)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", rule, err))
			continue
		}
		if block.Bits() > 0 {
			continue
		}
		if len(ports) != 1 || ports[0].Port == nil || ports[0].Port.IntValue() != 443 {
			problems = append(problems, rule+": every address, but not for port 443 alone")
		}
		for _, private := range privateNets {
			addr := netip.MustParseAddr(private)
			if addr.Is4() == block.Addr().Is4() && !excepted(peer.IPBlock.Except, addr) {
				problems = append(problems, rule+": reaches "+private+"; except private networks")
			}
		}
	}
	return problems
}

func excepted(nets []string, addr netip.Addr) bool {
	return slices.ContainsFunc(nets, func(text string) bool {
		block, err := netip.ParsePrefix(text)
		return err == nil && block.Contains(addr)
	})
}

func empty(s *metav1.LabelSelector) bool {
	return s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

// scaling demands that KEDA follows a metric that a worker computes, and that nobody else
// sets the number of workers.
func (m *manifests) scaling(d *appsv1.Deployment) (problems []string) {
	for _, s := range m.scaled {
		if s.Spec.ScaleTargetRef.Name != d.Name {
			continue
		}
		if d.Spec.Replicas != nil {
			problems = append(problems, "KEDA sets its replicas, and so does the manifest")
		}
		if s.Spec.MinReplicaCount == nil || *s.Spec.MinReplicaCount < 1 {
			problems = append(problems, "KEDA may stop the last worker, which computes the metric: minReplicaCount 1")
		}
		for _, trigger := range s.Spec.Triggers {
			if trigger.Type != "prometheus" || trigger.Metadata["query"] == "" || trigger.Metadata["threshold"] == "" || trigger.Metadata["serverAddress"] == "" {
				problems = append(problems, "KEDA's trigger wants the type prometheus, a serverAddress, a query and a threshold")
			}
		}
	}
	for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
		if !matches(c.LabelSelector, d.Spec.Template.Labels) {
			problems = append(problems, "a topology spread constraint does not select its own pods")
		}
	}
	return problems
}

// monitored demands that each scaled object and each pod monitor has something to look at.
func (m *manifests) monitored() (problems []string) {
	for _, s := range m.scaled {
		if m.deployments[s.Spec.ScaleTargetRef.Name] == nil {
			problems = append(problems, fmt.Sprintf("scaled object %s: there is no deployment %q", s.Metadata.Name, s.Spec.ScaleTargetRef.Name))
		}
	}
	for _, monitor := range m.monitors {
		for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
			found := false
			for _, d := range m.deployments {
				for _, c := range d.Spec.Template.Spec.Containers {
					found = found || matches(&monitor.Spec.Selector, d.Spec.Template.Labels) && endpoint.Port != nil && hasPort(c, *endpoint.Port)
				}
			}
			if !found {
				problems = append(problems, "pod monitor "+monitor.Name+": no pod that it selects has such a port")
			}
		}
	}
	return problems
}

func matches(selector *metav1.LabelSelector, pod map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(pod))
}

func isTrue(b *bool) bool  { return b != nil && *b }
func isFalse(b *bool) bool { return b != nil && !*b }
