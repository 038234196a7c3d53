package main

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The variables of the command dashboard that count here.
const (
	dashboardAddr  = "KOOWORKER_DASHBOARD_ADDR"
	dashboardUsers = "KOOWORKER_DASHBOARD_USERS_FILE"
	dashboardProxy = "KOOWORKER_DASHBOARD_TRUSTED_PROXY"
)

// isDashboard reports whether the arguments of a container run the dashboard.
func isDashboard(args []string) bool { return len(args) > 0 && args[0] == "dashboard" }

// composeDashboard demands that the dashboard asks who comes, has no credential for KooDrive,
// and has a health check of its own: that of the image asks a worker's /readyz.
func composeDashboard(s types.ServiceConfig) (problems []string) {
	if !isDashboard(s.Command) {
		return nil
	}
	var files []string
	for _, secret := range s.Secrets {
		target := secret.Target
		if target == "" {
			target = secret.Source
		}
		files = append(files, path.Join("/run/secrets", path.Base(target)))
		if secret.Source == "koodrive-token" {
			problems = append(problems, "has the token of KooDrive, and does not need it")
		}
	}
	if users := s.Environment[dashboardUsers]; users == nil || !slices.Contains(files, *users) {
		problems = append(problems, "lets nobody in: want "+dashboardUsers+" to name one of its secrets")
	}
	if s.HealthCheck == nil || !slices.ContainsFunc(s.HealthCheck.Test, func(arg string) bool { return strings.HasSuffix(arg, "/healthz") }) {
		problems = append(problems, "want a health check that asks its own /healthz")
	}
	return problems
}

// podDashboard demands that a pod's dashboard listens at the port that it names, asks who
// comes, and has no credential for KooDrive.
func podDashboard(m *manifests, pod corev1.PodSpec) (problems []string) {
	for _, c := range pod.Containers {
		if !isDashboard(c.Args) {
			continue
		}
		variables := m.variables(c)
		host, port, err := net.SplitHostPort(variables[dashboardAddr])
		if err != nil || host != "" || !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return strconv.Itoa(int(p.ContainerPort)) == port }) {
			problems = append(problems, fmt.Sprintf("container %s: want %s to be :PORT, with a port that the container names; it is %q", c.Name, dashboardAddr, variables[dashboardAddr]))
		}
		if variables[dashboardUsers] == "" && variables[dashboardProxy] == "" {
			problems = append(problems, fmt.Sprintf("container %s: does not start, because it lets in everybody: want %s or %s", c.Name, dashboardUsers, dashboardProxy))
		}
		for _, volume := range pod.Volumes {
			if volume.Projected == nil {
				continue
			}
			for _, source := range volume.Projected.Sources {
				if source.Secret != nil && source.Secret.Name == "kooworker-koodrive" {
					problems = append(problems, "has the token of KooDrive, and does not need it")
				}
			}
		}
	}
	return problems
}

// serviceRules demands that a service leads to a port of pods that are there, that a network
// policy lets somebody reach this port, and that the service ends inside the cluster: only an
// Ingress has TLS.
func (m *manifests) serviceRules(s *corev1.Service) (problems []string) {
	if s.Spec.Type != "" && s.Spec.Type != corev1.ServiceTypeClusterIP || len(s.Spec.ExternalIPs) > 0 {
		problems = append(problems, "is open to whoever reaches the node: want type ClusterIP, and an Ingress before it")
	}
	for _, port := range s.Spec.Ports {
		found := m.containerPorts(s.Spec.Selector, port)
		switch {
		case len(found) == 0:
			problems = append(problems, fmt.Sprintf("leads to port %s, and no pod that it selects names such a port", port.TargetPort.String()))
		case !slices.ContainsFunc(found, m.isReachable):
			problems = append(problems, fmt.Sprintf("leads to port %s, and no network policy lets anybody reach it", port.TargetPort.String()))
		}
	}
	return problems
}

// podPort is a port of the pods of a deployment.
type podPort struct {
	deployment *appsv1.Deployment
	port       corev1.ContainerPort
}

// containerPorts returns the ports to which a port of a service leads.
func (m *manifests) containerPorts(selector map[string]string, port corev1.ServicePort) (found []podPort) {
	for _, d := range m.deployments {
		if !matches(&metav1.LabelSelector{MatchLabels: selector}, d.Spec.Template.Labels) {
			continue
		}
		for _, c := range d.Spec.Template.Spec.Containers {
			for _, p := range c.Ports {
				if target := port.TargetPort.String(); target == p.Name || target == strconv.Itoa(int(p.ContainerPort)) {
					found = append(found, podPort{d, p})
				}
			}
		}
	}
	return found
}

// isReachable reports whether an ingress rule of the pods' network policy names the port.
func (m *manifests) isReachable(p podPort) bool {
	for _, policy := range m.policies {
		if !matches(&policy.Spec.PodSelector, p.deployment.Spec.Template.Labels) {
			continue
		}
		for _, rule := range policy.Spec.Ingress {
			for _, port := range rule.Ports {
				if port.Port != nil && (port.Port.String() == p.port.Name || port.Port.IntValue() == int(p.port.ContainerPort)) {
					return true
				}
			}
		}
	}
	return false
}
