package v2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the resources of this package.
var GroupVersion = schema.GroupVersion{Group: "cilium.io", Version: "v2"}

var schemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&CiliumNetworkPolicy{}, &CiliumNetworkPolicyList{},
		&CiliumClusterwideNetworkPolicy{}, &CiliumClusterwideNetworkPolicyList{},
		&CiliumEndpoint{}, &CiliumEndpointList{},
		&CiliumIdentity{}, &CiliumIdentityList{},
		&CiliumNode{}, &CiliumNodeList{},
		&CiliumLoadBalancerIPPool{}, &CiliumLoadBalancerIPPoolList{},
		&CiliumCIDRGroup{}, &CiliumCIDRGroupList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
})

// AddToScheme makes a scheme know the types of this package.
var AddToScheme = schemeBuilder.AddToScheme

// Resource names for dynamic clients and informers.
var (
	NetworkPolicies            = GroupVersion.WithResource("ciliumnetworkpolicies")
	ClusterwideNetworkPolicies = GroupVersion.WithResource("ciliumclusterwidenetworkpolicies")
	Endpoints                  = GroupVersion.WithResource("ciliumendpoints")
	Identities                 = GroupVersion.WithResource("ciliumidentities")
	Nodes                      = GroupVersion.WithResource("ciliumnodes")
	LoadBalancerIPPools        = GroupVersion.WithResource("ciliumloadbalancerippools")
	CIDRGroups                 = GroupVersion.WithResource("ciliumcidrgroups")
)
