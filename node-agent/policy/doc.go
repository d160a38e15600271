// Package policy decides who may talk to whom.
//
// It is pure: values in, values out, the standard library only. The agent uses it to fill the kernel's policy map, and the
// console, where it runs as WebAssembly, uses the very same code to validate, preview and explain.
//
// The way through it:
//
//	policy, problems := policy.Parse(policy.KindAuto, json) // strict; every problem at once
//	engine := policy.NewEngine()
//	engine.AddSubject(7, labels, namedPorts)                // an endpoint of this node
//	engine.AddIdentity(4711, labels)                        // a peer, anywhere
//	changes, err := engine.Upsert(policy)                   // what to write to the kernel, per endpoint
//
// Each mutating call returns only what changed, as kernel map lines; its cost follows the size of the change.
//
// # What the kernel does with the lines
//
// Two longest-prefix lookups, one with the peer's identity and one with identity 0 (anybody). If either line found denies,
// the packet is dropped; else if either allows, it passes; else it is dropped where the direction is enforced. A deny beats
// every allow whatever their specificity: within one identity the engine leaves out allow lines that a broader deny covers,
// and across the two identities the kernel's rule "either denies" does it. LookupKernel is that procedure in Go, and
// Engine.Verdict is an independent evaluation of the rules; tests hold them together.
//
// What neither line lets pass, or not unseen, is looked up a third time, with the number of the longest ipBlock around the
// peer's address: the ipBlocks of Kubernetes NetworkPolicies mean addresses, whoever has them. See Policy.Blocks.
//
// # Order in which an agent has to work
//
// A new address range in a policy needs an identity of its own before the policy can name it: take Policy.Prefixes, allocate
// a local identity for each new prefix, AddIdentity(id, LabelsForCIDR(prefix)), write the changes to the kernel, publish the
// prefix in the ipcache, and only then Upsert the policy. On the way out the reverse: Upsert or Delete, write, withdraw the
// prefixes that Engine.Prefixes no longer lists, RemoveIdentity. The same goes for Policy.Blocks and LabelsForBlock, whose
// numbers are published in a table of their own.
package policy
