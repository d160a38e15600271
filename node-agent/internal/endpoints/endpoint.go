// Package endpoints gives pods of this node their attachment: address, identity, policy, programs, and the news of it to
// the cluster.
package endpoints

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/statefile"
	"fairlead.dev/node-agent/policy"
)

// Endpoint is a pod's attachment. It is what the state file of a restart holds.
type Endpoint struct {
	ID          datapath.EndpointID `json:"id"`
	Namespace   string              `json:"namespace"`
	PodName     string              `json:"podName"`
	PodUID      string              `json:"podUID"`
	ContainerID string              `json:"containerID"`
	// NetworkInterface is the name inside of the pod, e.g. eth0.
	NetworkInterface string `json:"networkInterface"`
	// Address is the pod's of version 4, Address6 of version 6; one of them may be missing.
	Address        netip.Addr             `json:"address"`
	Address6       netip.Addr             `json:"address6,omitzero"`
	Identity       policy.NumericIdentity `json:"identity"`
	Labels         []string               `json:"labels"`
	Ports          policy.NamedPorts      `json:"ports,omitempty"`
	ServiceAccount string                 `json:"serviceAccount,omitempty"`
	WorkloadName   string                 `json:"workloadName,omitempty"`
	WorkloadKind   string                 `json:"workloadKind,omitempty"`
	Link           podlink.Details        `json:"link"`
	Bandwidth      Bandwidth              `json:"bandwidth,omitzero"`
}

// Addresses lists those that the pod has.
func (e Endpoint) Addresses() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{e.Address, e.Address6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// Pod names the endpoint's pod as namespace/name.
func (e Endpoint) Pod() string { return e.Namespace + "/" + e.PodName }

// datapath gives what is published in the kernel.
func (e Endpoint) datapath(enforced [2]bool, audit bool) datapath.Endpoint {
	return datapath.Endpoint{
		ID: e.ID, Interface: e.Link.Interface, InterfaceIndex: e.Link.InterfaceIndex, Addresses: e.Addresses(),
		PodMAC: e.Link.PodMAC, HostMAC: e.Link.HostMAC, Identity: uint32(e.Identity), NetnsCookie: e.Link.NetnsCookie,
		PolicyIngress: enforced[policy.Ingress], PolicyEgress: enforced[policy.Egress], Audit: audit,
		IngressBandwidth: e.Bandwidth.Ingress, EgressBandwidth: e.Bandwidth.Egress,
	}
}

// entry is an endpoint with its locks.
type entry struct {
	// operation serialises attach, refresh and detach of the endpoint.
	operation sync.Mutex
	// publication guards what follows and the datapath's publication. It is the innermost lock: it is taken while the
	// policy manager holds its own.
	publication sync.Mutex
	endpoint    Endpoint
	enforced    [2]bool
	published   bool
	removed     bool
	state       string
}

// store keeps one JSON file per endpoint, so that a restarted agent serves the same endpoints.
type store struct{ directory string }

func (s store) path(id datapath.EndpointID) string {
	return filepath.Join(s.directory, fmt.Sprintf("endpoint-%d.json", id))
}

func (s store) save(e Endpoint) error {
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("saving endpoint %d: %w", e.ID, err)
	}
	if err := statefile.Write(s.path(e.ID), text); err != nil {
		return fmt.Errorf("saving endpoint %d: %w", e.ID, err)
	}
	return nil
}

func (s store) remove(id datapath.EndpointID) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting endpoint %d: %w", id, err)
	}
	return nil
}

// load reads all files; one that cannot be read is returned as an error beside the others.
func (s store) load() ([]Endpoint, error) {
	if err := os.MkdirAll(s.directory, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(s.directory, "endpoint-*.json"))
	if err != nil {
		return nil, err
	}
	var out []Endpoint
	var errs []error
	for _, path := range files {
		text, err := os.ReadFile(path)
		var e Endpoint
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading %s: %w", path, err))
			continue
		}
		out = append(out, e)
	}
	return out, errors.Join(errs...)
}

// identityOf computes the labels and named ports of a pod.
func identityOf(pod *corev1.Pod, namespaceLabels map[string]string, cluster string) (policy.Labels, policy.NamedPorts) {
	labels := policy.LabelsForPod(pod.Namespace, pod.Labels, namespaceLabels, pod.Spec.ServiceAccountName, cluster)
	var ports policy.NamedPorts
	for _, c := range kubernetes.LastingContainers(pod) {
		for _, p := range c.Ports {
			if p.Name == "" {
				continue
			}
			protocol := map[corev1.Protocol]uint8{corev1.ProtocolTCP: policy.ProtocolTCP, corev1.ProtocolUDP: policy.ProtocolUDP,
				corev1.ProtocolSCTP: policy.ProtocolSCTP, "": policy.ProtocolTCP}[p.Protocol]
			if ports == nil {
				ports = policy.NamedPorts{}
			}
			name := strings.ToLower(p.Name)
			ports[name] = append(ports[name], policy.NamedPort{Protocol: protocol, Port: uint16(p.ContainerPort)})
		}
	}
	return labels, ports
}

// workloadOf names what owns the pod: the Deployment behind a ReplicaSet, the CronJob is left as its Job.
func workloadOf(pod *corev1.Pod) (name, kind string) {
	for _, o := range pod.OwnerReferences {
		if o.Controller == nil || !*o.Controller {
			continue
		}
		if hash := pod.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
			if name, ok := strings.CutSuffix(o.Name, "-"+hash); ok {
				return name, "Deployment"
			}
		}
		return o.Name, o.Kind
	}
	return pod.Name, "Pod"
}
