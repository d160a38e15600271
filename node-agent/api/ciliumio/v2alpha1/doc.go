// Package v2alpha1 holds lean Go types of the cilium.io/v2alpha1 resources that Fairlead knows; see package v2.
//
// +kubebuilder:object:generate=true
// +groupName=cilium.io
package v2alpha1
