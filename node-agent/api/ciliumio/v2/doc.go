// Package v2 holds lean Go types of the cilium.io/v2 resources that Fairlead reads and writes, field for field those of
// Cilium 1.20, so that objects of either product are understood by the other. The custom resource definitions in
// api/crds are generated from here (generate.sh).
//
// Policy rules live in fairlead.dev/node-agent/policy/spec, which the policy engine also reads. Nil and empty lists differ
// there; the types keep them apart when decoding and encoding.
//
// +kubebuilder:object:generate=true
// +groupName=cilium.io
package v2
