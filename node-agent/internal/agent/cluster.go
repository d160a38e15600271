package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/policy"
)

var (
	podResource       = kubernetes.Resource{Group: corev1.SchemeGroupVersion, Name: "pods"}
	namespaceResource = kubernetes.Resource{Group: corev1.SchemeGroupVersion, Name: "namespaces"}
	nodeResource      = kubernetes.Resource{Group: corev1.SchemeGroupVersion, Name: "nodes"}
	endpointResource  = kubernetes.Resource{Group: ciliumv2.GroupVersion, Name: "ciliumendpoints"}
	ciliumNodes       = kubernetes.Resource{Group: ciliumv2.GroupVersion, Name: "ciliumnodes"}
)

// cluster implements endpoints.Cluster with the informers, the API server and the announcer.
type cluster struct {
	client      *kubernetes.Client
	pods        *kubernetes.Informer[*corev1.Pod]
	namespaces  *kubernetes.Informer[*corev1.Namespace]
	ceps        *kubernetes.Informer[*ciliumv2.CiliumEndpoint]
	nodes       *nodes.Manager
	announcer   *nodes.Announcer
	nodeName    string
	nodeAddress netip.Addr
}

// addressing writes an endpoint's addresses as CiliumEndpoint has them.
func addressing(e endpoints.Endpoint) []ciliumv2.AddressPair {
	var pair ciliumv2.AddressPair
	if e.Address.IsValid() {
		pair.IPV4 = e.Address.String()
	}
	if e.Address6.IsValid() {
		pair.IPV6 = e.Address6.String()
	}
	return []ciliumv2.AddressPair{pair}
}

// Pod implements endpoints.Cluster.
func (c *cluster) Pod(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error) {
	if pod, ok := c.pods.Get(namespace, name); ok && isPod(pod, uid) {
		return pod, nil
	}
	// The kubelet knows of the pod before our watch does.
	r := podResource
	r.Namespace = namespace
	var pod corev1.Pod
	if err := c.client.Get(ctx, r, name, &pod); err != nil {
		return nil, err
	}
	if !isPod(&pod, uid) {
		return nil, fmt.Errorf("the pod was replaced: its UID is %s, not %s", pod.UID, uid)
	}
	return &pod, nil
}

// isPod tells whether a pod is the one the kubelet means. It knows a static pod by its manifest's hash, which the mirror
// of that pod in the API has as an annotation, beside a UID of its own.
func isPod(pod *corev1.Pod, uid string) bool {
	return uid == "" || string(pod.UID) == uid || pod.Annotations[configHashAnnotation] == uid
}

// configHashAnnotation is on the mirror pods of static pods.
const configHashAnnotation = "kubernetes.io/config.hash"

// NamespaceLabels implements endpoints.Cluster.
func (c *cluster) NamespaceLabels(ctx context.Context, name string) (map[string]string, error) {
	if n, ok := c.namespaces.Get("", name); ok {
		return n.Labels, nil
	}
	var n corev1.Namespace
	if err := c.client.Get(ctx, namespaceResource, name, &n); err != nil {
		return nil, err
	}
	return n.Labels, nil
}

// direction says in CiliumEndpoint's words what is enforced.
func direction(enforced bool, mode policies.Mode) *ciliumv2.EndpointPolicyDirection {
	state := "non-enforcing"
	if enforced {
		state = "enforcing"
	}
	if mode == policies.ModeNever {
		state = "disabled"
	}
	return &ciliumv2.EndpointPolicyDirection{Enforcing: enforced, State: state}
}

func (c *cluster) object(e endpoints.Endpoint, enforced [2]bool, mode policies.Mode) *ciliumv2.CiliumEndpoint {
	yes := true
	out := &ciliumv2.CiliumEndpoint{ObjectMeta: metav1.ObjectMeta{
		Name: e.PodName, Namespace: e.Namespace,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: e.PodName, UID: types.UID(e.PodUID), BlockOwnerDeletion: &yes}},
	}}
	out.Status = ciliumv2.EndpointStatus{
		ID: int64(e.ID), State: ciliumv2.EndpointStateReady,
		ExternalIdentifiers: &ciliumv2.EndpointIdentifiers{ContainerID: e.ContainerID, CNIAttachmentID: e.ContainerID + ":" + e.NetworkInterface,
			K8sNamespace: e.Namespace, K8sPodName: e.PodName, PodName: e.Pod()},
		Identity:       &ciliumv2.EndpointIdentity{ID: int64(e.Identity), Labels: e.Labels},
		Networking:     &ciliumv2.EndpointNetworking{NodeIP: c.nodeAddress.String(), Addressing: addressing(e)},
		Policy:         &ciliumv2.EndpointPolicy{Ingress: direction(enforced[policy.Ingress], mode), Egress: direction(enforced[policy.Egress], mode)},
		ServiceAccount: e.ServiceAccount,
	}
	for name, ports := range e.Ports {
		for _, p := range ports {
			out.Status.NamedPorts = append(out.Status.NamedPorts, ciliumv2.NamedPort{Name: name, Port: p.Port, Protocol: policy.ProtocolName(p.Protocol)})
		}
	}
	slices.SortFunc(out.Status.NamedPorts, func(a, b ciliumv2.NamedPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

// Publish implements endpoints.Cluster.
func (c *cluster) Publish(ctx context.Context, e endpoints.Endpoint, enforced [2]bool, mode policies.Mode) error {
	r := endpointResource
	r.Namespace = e.Namespace
	want := c.object(e, enforced, mode)
	have, ok := c.ceps.Get(e.Namespace, e.PodName)
	if !ok {
		err := c.client.Create(ctx, r, want.DeepCopy())
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		have = &ciliumv2.CiliumEndpoint{}
		if err := c.client.Get(ctx, r, e.PodName, have); err != nil {
			return err
		}
	}
	if sameEndpoint(have, want) {
		return nil
	}
	if len(have.OwnerReferences) > 0 && have.OwnerReferences[0].UID != types.UID(e.PodUID) {
		// Of an earlier pod of that name, and about to be collected with it.
		if err := c.client.Delete(ctx, r, e.PodName, have.UID); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
		return c.client.Create(ctx, r, want)
	}
	patch, err := json.Marshal(map[string]any{"status": want.Status})
	if err != nil {
		return err
	}
	if err := c.client.MergePatch(ctx, r, e.PodName, patch); apierrors.IsNotFound(err) {
		return c.client.Create(ctx, r, want)
	} else if err != nil {
		return err
	}
	return nil
}

func sameEndpoint(a, b *ciliumv2.CiliumEndpoint) bool {
	if len(a.OwnerReferences) != 1 || a.OwnerReferences[0].UID != b.OwnerReferences[0].UID {
		return false
	}
	x, errX := json.Marshal(a.Status)
	y, errY := json.Marshal(b.Status)
	return errX == nil && errY == nil && string(x) == string(y)
}

// Withdraw implements endpoints.Cluster. An object that another endpoint of that pod name has written stays.
func (c *cluster) Withdraw(ctx context.Context, e endpoints.Endpoint) error {
	r := endpointResource
	r.Namespace = e.Namespace
	var have ciliumv2.CiliumEndpoint
	if err := c.client.Get(ctx, r, e.PodName, &have); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if x := have.Status.ExternalIdentifiers; x != nil && x.ContainerID != e.ContainerID {
		return nil
	}
	if err := c.client.Delete(ctx, r, e.PodName, have.UID); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return err
	}
	return nil
}

// Announce implements endpoints.Cluster.
func (c *cluster) Announce(ctx context.Context, e endpoints.Endpoint) {
	var addresses []string
	for _, a := range e.Addresses() {
		addresses = append(addresses, a.String())
	}
	c.announcer.Announce(ctx, c.nodes.Others(), &fairleadv1.AnnounceEndpointRequest{
		NodeName: c.nodeName, NodeAddress: c.nodeAddress.String(), Addresses: addresses,
		Identity: uint32(e.Identity), Labels: e.Labels, Namespace: e.Namespace, PodName: e.PodName,
	})
}

// nodeSpec is what this node tells of itself; health: its agent answers probes, at its end of the pods' network.
func nodeSpec(c datapath.Config, health bool) ciliumv2.NodeSpec {
	var spec ciliumv2.NodeSpec
	add := func(kind ciliumv2.NodeAddressType, addresses ...netip.Addr) {
		for _, a := range addresses {
			if a.IsValid() {
				spec.Addresses = append(spec.Addresses, ciliumv2.NodeAddress{Type: kind, IP: a.String()})
			}
		}
	}
	add(ciliumv2.NodeInternalIP, c.NodeAddress, c.NodeAddress6)
	add(ciliumv2.NodeCiliumInternalIP, c.RouterAddress, c.RouterAddress6)
	for _, p := range c.PodCIDRs {
		spec.IPAM.PodCIDRs = append(spec.IPAM.PodCIDRs, p.String())
	}
	if health && c.RouterAddress.IsValid() {
		spec.HealthAddressing.IPv4 = c.RouterAddress.String()
	}
	if health && c.RouterAddress6.IsValid() {
		spec.HealthAddressing.IPv6 = c.RouterAddress6.String()
	}
	return spec
}

// publishNode writes this node's CiliumNode.
func publishNode(ctx context.Context, client *kubernetes.Client, name string, uid types.UID, spec ciliumv2.NodeSpec, routing datapath.RoutingMode) error {
	var have ciliumv2.CiliumNode
	err := client.Get(ctx, ciliumNodes, name, &have)
	if apierrors.IsNotFound(err) {
		object := &ciliumv2.CiliumNode{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{nodes.RoutingAnnotation: string(routing)}}, Spec: spec}
		if uid != "" {
			object.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: uid}}
		}
		return client.Create(ctx, ciliumNodes, object)
	}
	if err != nil {
		return err
	}
	x, _ := json.Marshal(have.Spec)
	y, _ := json.Marshal(spec)
	if string(x) == string(y) && have.Annotations[nodes.RoutingAnnotation] == string(routing) {
		return nil
	}
	have.Spec = spec
	setRouting(&have, routing)
	return client.Update(ctx, ciliumNodes, name, &have)
}

func setRouting(n *ciliumv2.CiliumNode, routing datapath.RoutingMode) {
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	n.Annotations[nodes.RoutingAnnotation] = string(routing)
}

const (
	// announceTime is how long the API server may take to hear of a change of modes, and heardTime what the other agents get to
	// hear of it.
	announceTime = 3 * time.Second
	heardTime    = 2 * time.Second
)

// announceNative tells the others that this node is about to leave the tunnel, before it does: from then on they take what its
// pods send as it is. Where nobody can be told, pods of nodes that do not know yet are missed until they hear of it.
func announceNative(ctx context.Context, client *kubernetes.Client, name string, log *slog.Logger) {
	soon, cancel := context.WithTimeout(ctx, announceTime)
	defer cancel()
	var have ciliumv2.CiliumNode
	err := client.Get(soon, ciliumNodes, name, &have)
	if apierrors.IsNotFound(err) || err == nil && have.Annotations[nodes.RoutingAnnotation] != string(datapath.RoutingTunnel) {
		return
	}
	if err == nil {
		setRouting(&have, datapath.RoutingToNative)
		err = client.Update(soon, ciliumNodes, name, &have)
	}
	if err != nil {
		log.Warn("the other nodes could not be told that this one leaves the tunnel; they hear of it when it has", "error", err)
		return
	}
	log.Info("told the other nodes that this one leaves the tunnel")
	_ = pause(ctx, heardTime)
}
