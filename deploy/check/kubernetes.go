package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// manifests are the resources of one overlay, decoded into Kubernetes' own types.
type manifests struct {
	deployments map[string]*appsv1.Deployment
	configMaps  map[string]*corev1.ConfigMap
	services    []*corev1.Service
	accounts    map[string]*corev1.ServiceAccount
	budgets     []*policyv1.PodDisruptionBudget
	policies    []*networkingv1.NetworkPolicy
	monitors    []*monitoringv1.PodMonitor
	scaled      []*scaledObject
}

// checkKubernetes builds each folder below dir that is meant to be applied, as `kubectl
// kustomize` does, and checks what comes out.
func checkKubernetes(_ context.Context, dir string) ([]string, error) {
	overlays, err := filepath.Glob(filepath.Join(dir, "overlays", "*", "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	if len(overlays) == 0 {
		return nil, errors.New("has no overlay: want overlays/NAME/kustomization.yaml")
	}
	var problems []string
	for _, folder := range append([]string{filepath.Join(dir, "base")}, dirsOf(overlays)...) {
		name, _ := filepath.Rel(dir, folder)
		found, err := checkOverlay(folder)
		if err != nil {
			found = append(found, err.Error())
		}
		for _, problem := range found {
			problems = append(problems, name+": "+problem)
		}
	}
	unused, err := unusedFiles(dir)
	if err != nil {
		return problems, err
	}
	unbuilt, err := unbuiltComponents(dir, overlays)
	return slices.Concat(problems, unused, unbuilt), err
}

func dirsOf(files []string) (dirs []string) {
	for _, file := range files {
		dirs = append(dirs, filepath.Dir(file))
	}
	return dirs
}

// unusedFiles finds a file that no kustomization names: it is checked by nothing, and
// never applied.
func unusedFiles(dir string) (problems []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "kustomization.yaml"))
		if err != nil || !strings.Contains(string(text), entry.Name()) {
			problems = append(problems, path+": no kustomization.yaml beside it names it")
		}
		return nil
	})
	return problems, err
}

// unbuiltComponents finds a component that no overlay names: it is checked by nothing.
func unbuiltComponents(dir string, overlays []string) (problems []string, err error) {
	components, err := filepath.Glob(filepath.Join(dir, "components", "*", "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, overlay := range overlays {
		one, err := os.ReadFile(overlay) //nolint:gosec // a file of the repository
		if err != nil {
			return nil, err
		}
		text = append(text, one...)
	}
	for _, folder := range dirsOf(components) {
		if name := "components/" + filepath.Base(folder); !strings.Contains(string(text), "- ../../"+name+"\n") {
			problems = append(problems, name+": no overlay names it, so nothing checks it")
		}
	}
	return problems, nil
}

func checkOverlay(folder string) ([]string, error) {
	m, err := build(folder)
	if err != nil {
		return nil, err
	}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(m.deployments)) {
		deployment := m.deployments[name]
		pod := deployment.Spec.Template
		for _, problem := range slices.Concat(
			podConfinement(pod.Spec), podCredentials(m, pod.Spec), podGrace(m, pod.Spec), podProbes(pod.Spec), podDashboard(m, pod.Spec),
			m.account(pod.Spec), m.budget(pod.Labels), m.policy(pod.Labels), m.scaling(deployment),
		) {
			problems = append(problems, "deployment "+name+": "+problem)
		}
	}
	for _, policy := range m.policies {
		for _, problem := range append(policyLimits(policy), m.reachesOthers(policy)...) {
			problems = append(problems, "network policy "+policy.Name+": "+problem)
		}
	}
	for _, service := range m.services {
		for _, problem := range m.serviceRules(service) {
			problems = append(problems, "service "+service.Name+": "+problem)
		}
	}
	problems = append(problems, m.monitored()...)
	if len(m.deployments) == 0 {
		problems = append(problems, "has no deployment")
	}
	slices.Sort(problems)
	return problems, nil
}

// build runs kustomize, and decodes strictly: a field that Kubernetes does not know is an
// error, as it is to `kubectl apply --validate=strict`.
func build(folder string) (*manifests, error) {
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsRootOnly
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, err
	}
	m := &manifests{
		deployments: map[string]*appsv1.Deployment{}, configMaps: map[string]*corev1.ConfigMap{}, accounts: map[string]*corev1.ServiceAccount{},
	}
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		if err := m.add(resource.GetApiVersion()+" "+resource.GetKind(), text); err != nil {
			return nil, fmt.Errorf("%s %s: %w", resource.GetKind(), resource.GetName(), err)
		}
	}
	return m, nil
}

func (m *manifests) add(kind string, text []byte) error {
	switch kind {
	case "apps/v1 Deployment":
		d, err := strictly[appsv1.Deployment](text)
		m.deployments[d.Name] = d
		return err
	case "v1 ConfigMap":
		c, err := strictly[corev1.ConfigMap](text)
		m.configMaps[c.Name] = c
		return err
	case "v1 Service":
		return appendStrictly(&m.services, text)
	case "v1 ServiceAccount":
		a, err := strictly[corev1.ServiceAccount](text)
		m.accounts[a.Name] = a
		return err
	case "policy/v1 PodDisruptionBudget":
		return appendStrictly(&m.budgets, text)
	case "networking.k8s.io/v1 NetworkPolicy":
		return appendStrictly(&m.policies, text)
	case "monitoring.coreos.com/v1 PodMonitor":
		return appendStrictly(&m.monitors, text)
	case "keda.sh/v1alpha1 ScaledObject":
		return appendStrictly(&m.scaled, text)
	case "v1 Namespace":
		_, err := strictly[corev1.Namespace](text)
		return err
	case "v1 Secret":
		return errors.New("a secret does not belong into a file of the repository")
	}
	return fmt.Errorf("%s is not a kind that this check knows", kind)
}

func strictly[T any](text []byte) (*T, error) {
	value := new(T)
	return value, yaml.UnmarshalStrict(text, value)
}

func appendStrictly[T any](list *[]*T, text []byte) error {
	value, err := strictly[T](text)
	*list = append(*list, value)
	return err
}

// scaledObject has the fields of KEDA's type that are used here. KEDA's own module would
// bring the clients of all its scalers.
type scaledObject struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		MinReplicaCount *int32 `json:"minReplicaCount"`
		MaxReplicaCount *int32 `json:"maxReplicaCount"`
		PollingInterval *int32 `json:"pollingInterval"`
		Fallback        *struct {
			FailureThreshold int32 `json:"failureThreshold"`
			Replicas         int32 `json:"replicas"`
		} `json:"fallback"`
		Advanced *struct {
			HorizontalPodAutoscalerConfig *struct {
				Behavior *struct {
					ScaleDown *struct {
						StabilizationWindowSeconds *int32 `json:"stabilizationWindowSeconds"`
					} `json:"scaleDown"`
				} `json:"behavior"`
			} `json:"horizontalPodAutoscalerConfig"`
		} `json:"advanced"`
		Triggers []struct {
			Type     string            `json:"type"`
			Metadata map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}
