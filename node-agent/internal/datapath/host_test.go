package datapath

import (
	"context"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func withHostFirewall(c *Config) { c.HostFirewall = true }

// hostLine lets one port of the node be reached, or denies it.
func hostLine(direction Direction, identity uint32, port uint16, deny bool) PolicyEntry {
	return PolicyEntry{PolicyKey{Endpoint: HostEndpoint, Identity: identity, Direction: direction, Protocol: unix.IPPROTO_TCP, Port: port, PortPrefix: 16},
		PolicyValue{Deny: deny, Rule: 7}}
}

func toNode(port uint16, flags uint8) frame {
	return frame{mac: macA, source: "192.0.2.9", destination: "192.0.2.1", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: port, flags: flags}
}

func TestHostIngress(t *testing.T) {
	ctx := context.Background()
	for _, routing := range []RoutingMode{RoutingNative, RoutingTunnel} {
		r := newRig(t, routing, withHostFirewall)
		r.expect("no policy was ever applied", "from_netdev", toNode(22, syn), verdictUnspec)
		r.must(r.UpsertHost(ctx, Host{}))
		r.expect("no policy governs the node", "from_netdev", toNode(22, syn), verdictUnspec)
		r.must(r.UpsertHost(ctx, Host{PolicyIngress: true}))
		r.expect("a connection of before the policy goes on", "from_netdev", toNode(22, ack), verdictUnspec)
		again := toNode(22, syn)
		again.sourcePort = 40001
		r.expectDrop("a new one is refused", "from_netdev", again, 133)
		again.flags = ack
		r.expect("one that nobody saw opening goes on", "from_netdev", again, verdictUnspec)

		r.must(r.ApplyPolicy(ctx, []PolicyEntry{hostLine(Ingress, 0, 22, false)}, nil))
		again.flags, again.sourcePort = syn, 40002
		r.expect("a rule allows it", "from_netdev", again, verdictUnspec)
		other := again
		other.destPort = 10250
		r.expectDrop("and no other port", "from_netdev", other, 133)
		r.must(r.ApplyPolicy(ctx, nil, []PolicyKey{hostLine(Ingress, 0, 22, false).PolicyKey}))
		again.flags = ack
		r.expectDrop("the rule is gone, and with it what it allowed", "from_netdev", again, 133)

		r.must(r.ApplyPolicy(ctx, []PolicyEntry{hostLine(Ingress, 0, 23, true)}, nil))
		denied := toNode(23, ack)
		r.expectDrop("a rule that denies counts for the middle of a connection too", "from_netdev", denied, 181)
		udp := frame{mac: macA, source: "192.0.2.9", destination: "192.0.2.1", protocol: unix.IPPROTO_UDP, sourcePort: 40000, destPort: 161}
		r.expectDrop("datagrams", "from_netdev", udp, 133)
		ping := frame{mac: macA, source: "192.0.2.9", destination: "192.0.2.1", protocol: unix.IPPROTO_ICMP, sourcePort: 5, icmpType: 8}
		r.expectDrop("echo requests", "from_netdev", ping, 133)
		six := frame{mac: macA, source: "2001:db8::9", destination: "2001:db8::1", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 22, flags: syn}
		r.expectDrop("IPv6", "from_netdev", six, 133)
		neighbours := frame{mac: macA, source: "2001:db8::9", destination: "2001:db8::1", protocol: unix.IPPROTO_ICMPV6, icmpType: 135}
		r.expect("IPv6 neighbour discovery", "from_netdev", neighbours, verdictUnspec)
		elsewhere := toNode(22, syn)
		elsewhere.destination = "192.0.2.77"
		r.expect("what is forwarded is none of the node's business", "from_netdev", elsewhere, verdictUnspec)
		if routing == RoutingTunnel {
			udp.destPort = 8472
			r.expect("the tunnel", "from_netdev", udp, verdictUnspec)
		}
		// A pod that talks to its node.
		r.endpoint(1, "10.77.1.11", macA, nil)
		fromPod := frame{mac: macA, source: "10.77.1.11", destination: "192.0.2.1", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80, flags: syn}
		r.expectDrop("a pod", "from_pod", fromPod, 133)
		r.must(r.ApplyPolicy(ctx, []PolicyEntry{hostLine(Ingress, 1001, 80, false)}, nil))
		r.expect("the pod by its identity", "from_pod", fromPod, verdictOK)

		r.must(r.UpsertHost(ctx, Host{PolicyIngress: true, Audit: true}))
		last := toNode(99, syn)
		r.expect("audited", "from_netdev", last, verdictUnspec)
		denied.flags, denied.sourcePort = syn, 40009
		r.expect("an audited deny", "from_netdev", denied, verdictUnspec)
	}
}

func TestHostEgress(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, RoutingNative, withHostFirewall)
	r.endpoint(1, "10.77.1.11", macA, nil)
	toPod := frame{source: "10.77.1.1", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 8080, flags: syn}
	r.must(r.UpsertHost(ctx, Host{PolicyIngress: true, PolicyEgress: true}))
	r.expectDrop("the node to its pod", "to_pod", toPod, 133)
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{hostLine(Egress, 1001, 8080, false)}, nil))
	r.expect("as a rule allows", "to_pod", toPod, verdictOK)
	answer := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.1", protocol: unix.IPPROTO_TCP, sourcePort: 8080, destPort: 40000, flags: syn | ack}
	r.expect("the answer needs no leave", "from_pod", answer, verdictOK)
	answer.destPort, answer.flags = 40001, syn
	r.expectDrop("but the pod of its own", "from_pod", answer, 133)
}

// TestHostIsRestored: an agent that comes back takes over how the node is governed; one without host firewall forgets it.
func TestHostIsRestored(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, RoutingNative, withHostFirewall)
	r.must(r.UpsertHost(ctx, Host{PolicyIngress: true}))
	r.must(r.ApplyPolicy(ctx, []PolicyEntry{hostLine(Ingress, 0, 22, false)}, nil))
	revision := r.revision
	again := &kernel{config: r.config, namespace: r.namespace, objects: r.objects, endpoints: map[EndpointID]Endpoint{}, options: r.options}
	r.must(again.restoreEndpoints())
	if again.host == nil || *again.host != (Host{PolicyIngress: true}) || again.revision != revision || len(again.endpoints) != 0 {
		t.Fatalf("restored %+v with revision %d and %d endpoints", again.host, again.revision, len(again.endpoints))
	}
	off := &kernel{config: rigConfig(RoutingNative), namespace: r.namespace, objects: r.objects, endpoints: map[EndpointID]Endpoint{}, options: r.options}
	r.must(off.restoreEndpoints())
	lines, err := off.policyLines(HostEndpoint)
	r.must(err)
	if off.host != nil || len(lines) != 0 {
		t.Fatalf("left behind: %+v, lines %v", off.host, lines)
	}
	if err := r.objects.maps["endpoints"].Lookup(hostKey, &endpointLayout{}); err == nil {
		t.Fatal("the node is still an endpoint")
	}
}

func TestAuditOfAPod(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress, e.Audit = true, true })
	r.endpoint(2, "10.77.1.12", macB, nil)
	f := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.12", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80, flags: syn}
	ctx, cancel := context.WithCancel(context.Background())
	seen := make(chan Event, 64)
	var reader sync.WaitGroup
	reader.Go(func() { _ = r.Events(ctx, func(e Event) { seen <- e }, func(uint64) {}) })
	defer reader.Wait()
	defer cancel()
	r.expect("would be dropped", "from_pod", f, verdictRedirect)
	for e := range seen {
		if e.Type == EventPolicyVerdict && e.Endpoint == 1 {
			if !e.Audited || e.Denied || e.MatchType != 0 {
				t.Fatalf("the verdict is %+v", e)
			}
			return
		}
	}
}

// TestPodMayTalkToItself: a hairpin through its own address asks no policy, though it denies everything.
func TestPodMayTalkToItself(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress, e.PolicyIngress = true, true })
	f := frame{mac: macA, source: "10.77.1.11", destination: "10.77.1.11", protocol: unix.IPPROTO_TCP, sourcePort: 40000, destPort: 80, flags: syn}
	r.expect("to itself", "from_pod", f, verdictRedirect)
	f.destination = "10.77.1.12"
	r.expectDrop("to anybody else", "from_pod", f, 133)
}
