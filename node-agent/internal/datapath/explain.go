package datapath

import (
	"context"
	"fmt"
	"net/netip"
)

// Trial is a packet that Explain tries: either one that a pod of this node sends, or one that arrives from another node.
type Trial struct {
	// Endpoint sends it to Destination and DestPort; of ICMP an echo request is sent.
	Endpoint             EndpointID
	Destination          netip.Addr
	Protocol             uint8
	SourcePort, DestPort uint16
	// PerPacket leaves the socket programs out, as for a process that they do not reach.
	PerPacket bool
	// Frame arrives at one of the node's devices. The fields above do not count then.
	Frame []byte
}

// Outcome is where a tried packet ends.
type Outcome string

// The outcomes. OutcomeOnward: it goes to another node, which has to be asked for the rest.
const (
	OutcomeDelivered Outcome = "delivered"
	OutcomeHost      Outcome = "host"
	OutcomeLeaves    Outcome = "leaves"
	OutcomeDropped   Outcome = "dropped"
	OutcomeRefused   Outcome = "refused"
	OutcomeProxy     Outcome = "proxy"
	OutcomeOnward    Outcome = "onward"
)

// ExplainStep is one thing that a program asked or decided on the way.
type ExplainStep struct {
	// Hook is the program, or "routing table".
	Hook string
	// Kind is service, backend, affinity, endpoint, identity, connection, policy, nat, rewrite, encapsulation, decapsulation,
	// route, redirect, proxy, prefilter, event or verdict.
	Kind string
	// Map that was asked, with Key and Value; Found is false where it had no answer.
	Map, Key, Value string
	Found           bool
	// Rule and Identity are those of the answer; 0 for none.
	Rule, Identity uint32
	// Network that the prefilter refuses.
	Network netip.Prefix
	Rewrite string
	// Verdict is forwarded, dropped, redirected or refused; empty where the packet goes on.
	Verdict string
	// Reason of a drop, and where it was decided.
	Reason uint8
	File   uint8
	Line   uint16
	Text   string
}

// Explanation is the answer to a Trial.
type Explanation struct {
	Outcome Outcome
	// Reason of a drop or refusal.
	Reason uint8
	// Endpoint that gets the packet, Device by which it leaves, ProxyPort and Rule of the proxy: as the outcome has them.
	Endpoint  EndpointID
	Device    string
	ProxyPort uint16
	Rule      uint32
	// Network is the refused one that the sender is in, of a drop by the prefilter.
	Network netip.Prefix
	// Proxied is the connection as the proxy's rules know it, of OutcomeProxy.
	Proxied Proxied
	// Node and Frame are what goes on to another node.
	Node  netip.Addr
	Frame []byte
	Steps []ExplainStep
	// Notes say what could not be tried.
	Notes []string
}

// Proxied is a connection that a proxy decides about: an endpoint's, in a direction, with a peer.
type Proxied struct {
	Endpoint  EndpointID
	Direction Direction
	Peer      uint32
	// Address is the peer's.
	Address  netip.Addr
	Protocol uint8
	Port     uint16
}

// Explain implements Datapath.
func (k *kernel) Explain(ctx context.Context, t Trial) (Explanation, error) {
	k.dry.mu.Lock()
	defer k.dry.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Explanation{}, fmt.Errorf("explaining: %w", err)
	}
	var w *walk
	err := k.namespace.do(func() (err error) {
		if w, err = k.startWalk(); err != nil {
			return err
		}
		if t.Frame != nil {
			return w.arrive(t.Frame)
		}
		return w.send(t)
	})
	if err != nil {
		return Explanation{}, fmt.Errorf("explaining: %w", err)
	}
	return w.out, nil
}

// sourceFiles are the files of bpf/ by the number that each has as FILE_NUMBER.
var sourceFiles = map[uint8]string{
	1: "from_pod.bpf.c", 2: "to_pod.bpf.c", 3: "from_netdev.bpf.c", 4: "from_overlay.bpf.c", 5: "from_host.bpf.c", 6: "to_netdev.bpf.c",
	7: "to_proxy.bpf.c", 9: "xdp_netdev.bpf.c",
	20: "kfree_skb.bpf.c", 21: "explain.bpf.c",
	// Headers that drop by themselves; see DROPPING_FILE.
	30: "lib/nodeport.h", 31: "lib/host_firewall.h",
}

// SourceFile names a source of the programs by Event.File; a step's line may be one of a header that it includes.
func SourceFile(number uint8) string {
	if name, ok := sourceFiles[number]; ok {
		return name
	}
	return fmt.Sprintf("program %d", number)
}
