// Package spec holds the policy documents as their authors write them: the rule of CiliumNetworkPolicy and
// CiliumClusterwideNetworkPolicy, and the spec of the Kubernetes NetworkPolicy.
//
// It imports nothing outside the standard library, because the policy engine that reads it is also compiled to
// WebAssembly. The custom resource types of api/ciliumio embed these types, so the schema that the API server knows and
// the document that the engine reads cannot drift apart.
//
// Nil and empty differ in these APIs (a nil list of peers means "anybody", an empty one "nobody"). Slices therefore carry
// `omitzero`, which drops nil and keeps empty.
//
// +kubebuilder:object:generate=true
package spec
