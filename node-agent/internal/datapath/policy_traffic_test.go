package datapath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

// subject is a pod's number in the engine, since endpoints are numbered by node.
func subject(p *pod) policy.SubjectID {
	return policy.SubjectID(p.endpoint.Identity)
}

// enforce writes what the engine says about a pod in the place of what was there.
func enforce(t testing.TB, e *policy.Engine, p *pod) {
	t.Helper()
	enforceAs(t, e, subject(p), p)
}

func enforceAs(t testing.TB, e *policy.Engine, id policy.SubjectID, p *pod) {
	t.Helper()
	entries, enforced := e.Entries(id)
	withoutPolicy(t, p)
	govern(t, p, enforced[policy.Ingress], enforced[policy.Egress], linesOf(p.endpoint.ID, entries)...)
}

// linesOf is what the engine says about an endpoint, for the datapath.
func linesOf(endpoint datapath.EndpointID, entries []policy.Entry) (lines []datapath.PolicyEntry) {
	for _, l := range entries {
		lines = append(lines, datapath.PolicyEntry{
			PolicyKey:   datapath.PolicyKey{Endpoint: endpoint, Identity: uint32(l.Peer), Direction: datapath.Direction(l.Direction), Protocol: l.Protocol, Port: l.Port, PortPrefix: l.PortPrefix},
			PolicyValue: datapath.PolicyValue{Deny: l.Deny, Rule: uint32(l.Rule)}})
	}
	return lines
}

// What the engine says of random policies and labels is what real packets get, between pods of one node and of two, of both
// families, by both routing modes.
func TestTrafficAgreesWithTheEngine(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 7))
		ports := []uint16{80, 443, 8080}
		var pods []*pod
		for _, n := range c.nodes {
			pods = append(pods, n.pods...)
		}
		for _, p := range pods {
			for _, port := range ports {
				p.space.echoTCP(t, fmt.Sprintf(":%d", port))
				p.space.echoUDP(t, fmt.Sprintf(":%d", port))
			}
		}
		var mu sync.Mutex
		denied, allowed := 0, 0
		for round := 0; round < 3 || round < 12 && (denied < 10 || allowed < 10); round++ {
			e := policy.NewEngine()
			for _, p := range pods {
				labels := datapath.RandomLabels(random)
				web := policy.NamedPorts{"web": {{Protocol: policy.ProtocolTCP, Port: ports[random.IntN(len(ports))]}}}
				e.AddIdentity(policy.NumericIdentity(p.endpoint.Identity), labels)
				e.SetIdentityPorts(policy.NumericIdentity(p.endpoint.Identity), web)
				e.AddSubject(subject(p), labels, web)
			}
			blocks := map[netip.Prefix]bool{}
			for i := range 1 + random.IntN(3) {
				rules := datapath.RandomPolicy(random, i)
				for n, prefix := range e.Resolve(rules).Prefixes() {
					e.AddIdentity(policy.IdentityLocalMin+policy.NumericIdentity(100*i+n), policy.LabelsForCIDR(prefix))
				}
				for _, prefix := range rules.Blocks() {
					if !blocks[prefix] {
						blocks[prefix] = true
						number := policy.IdentityBlockMin + policy.NumericIdentity(len(blocks))
						e.AddIdentity(number, policy.LabelsForBlock(prefix))
						for _, n := range c.nodes {
							must(t, n.datapath.UpsertBlocks(ctx, datapath.Block{Prefix: prefix, Number: uint32(number)}))
						}
					}
				}
				if _, err := e.Upsert(rules); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range pods {
				enforce(t, e, p)
			}
			// Side by side, since waiting for what does not come takes longest.
			var asking errgroup.Group
			asking.SetLimit(8)
			for _, from := range pods {
				for _, to := range pods {
					for _, network := range []string{"tcp4", "udp4", "tcp6", "udp6"} {
						if from == to {
							continue
						}
						v6, port := network[3] == '6', ports[random.IntN(len(ports))]
						protocol := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[network[:3]]
						says := func(of, peer *pod, d policy.Direction) policy.Decision {
							return e.Verdict(subject(of), d, policy.NumericIdentity(peer.endpoint.Identity), peer.at(v6), protocol, port)
						}
						out, in := says(from, to, policy.Egress), says(to, from, policy.Ingress)
						want, at := out.Allowed && in.Allowed, netip.AddrPortFrom(to.at(v6), port)
						asking.Go(func() error {
							came := arrives(from.space, network, at.String(), want)
							mu.Lock()
							defer mu.Unlock()
							if came != want {
								t.Errorf("round %d: %s from %s to %s: the engine says %+v and %+v, but it arrives: %v", round, network, from.at(v6), at, out, in, came)
							}
							if want {
								allowed++
							} else {
								denied++
							}
							return nil
						})
					}
				}
			}
			_ = asking.Wait()
			for prefix := range blocks {
				for _, n := range c.nodes {
					must(t, n.datapath.DeleteBlocks(ctx, prefix))
				}
			}
		}
		t.Logf("%d were allowed, %d denied", allowed, denied)
		if allowed < 10 || denied < 10 {
			t.Errorf("too one-sided to say much: %d allowed, %d denied", allowed, denied)
		}
	})
}
