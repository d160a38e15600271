package datapath_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// explain asks the pod's node and goes on at the others, as the agents do.
func (c *cluster) explain(t testing.TB, from *pod, to netip.AddrPort, protocol uint8, perPacket bool) datapath.Explanation {
	t.Helper()
	trial := datapath.Trial{Endpoint: from.endpoint.ID, Destination: to.Addr(), DestPort: to.Port(), Protocol: protocol, PerPacket: perPacket}
	out, err := from.node.datapath.Explain(ctx, trial)
	must(t, err)
	for hops := 0; out.Outcome == datapath.OutcomeOnward && hops < 4; hops++ {
		i := slices.IndexFunc(c.nodes[:], func(n *node) bool { return n.config.NodeAddress == out.Node })
		if i < 0 {
			t.Fatalf("the packet goes on to %s, which is nobody", out.Node)
		}
		next, err := c.nodes[i].datapath.Explain(ctx, datapath.Trial{Frame: out.Frame})
		must(t, err)
		next.Steps = append(out.Steps, next.Steps...)
		out = next
	}
	return out
}

// someService is a service with a cluster address and backends for everybody.
func someService(name, at string, protocol uint8, backends ...netip.AddrPort) datapath.Service {
	front := netip.MustParseAddrPort(at)
	s := datapath.Service{
		ServiceID: datapath.ServiceID{Namespace: "default", Name: name, Protocol: protocol},
		Frontends: []datapath.Frontend{{Address: front.Addr(), Port: front.Port(), Protocol: protocol}},
	}
	s.V6 = front.Addr().Is6()
	for _, b := range backends {
		s.Backends = append(s.Backends, datapath.Backend{Address: b.Addr(), Port: b.Port(), Internal: true, External: true})
	}
	return s
}

func steps(e datapath.Explanation) string {
	var out strings.Builder
	for _, s := range e.Steps {
		fmt.Fprintf(&out, "\n  %-14s %-13s %s | %s[%s] = %s", s.Hook, s.Kind, s.Text, s.Map, s.Key, s.Value)
	}
	fmt.Fprintf(&out, "\n  %s, reason %d, endpoint %d, device %s, notes %v", e.Outcome, e.Reason, e.Endpoint, e.Device, e.Notes)
	return out.String()
}

// kinds of the steps, in order, each once.
func kinds(e datapath.Explanation) []string {
	var out []string
	for _, s := range e.Steps {
		if !slices.Contains(out, s.Kind) {
			out = append(out, s.Kind)
		}
	}
	return out
}

func TestExplain(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		a, b, far := c.nodes[0].pods[0], c.nodes[0].pods[1], c.nodes[1].pods[0]
		n := c.nodes[0]
		at6 := func(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
		e := far.endpoint
		e.PolicyIngress = true
		must(t, c.nodes[1].datapath.UpsertEndpoint(ctx, e))
		must(t, c.nodes[1].datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{line(far, a.endpoint.Identity, datapath.Ingress, unix.IPPROTO_TCP, 7000, false, 42)}, nil))
		must(t, n.datapath.UpsertService(ctx, someService("echo6", "[fd00:10:96::20]:80", unix.IPPROTO_TCP, netip.AddrPortFrom(far.address6, 7000))))
		// An ipBlock around a's address, without regard to its identity.
		must(t, c.nodes[1].datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{{
			PolicyKey:   datapath.PolicyKey{Endpoint: far.endpoint.ID, Identity: 3 << 24, Direction: datapath.Ingress, Protocol: unix.IPPROTO_TCP, Port: 7002, PortPrefix: 16},
			PolicyValue: datapath.PolicyValue{Rule: 43}}}, nil))
		must(t, c.nodes[1].datapath.UpsertBlocks(ctx, datapath.Block{Prefix: netip.PrefixFrom(a.address, 32), Number: 3 << 24}))
		must(t, n.datapath.UpsertService(ctx, someService("echo", "10.96.0.20:80", unix.IPPROTO_TCP, netip.AddrPortFrom(far.address, 7000))))
		must(t, n.datapath.UpsertService(ctx, someService("empty", "10.96.0.21:80", unix.IPPROTO_TCP)))
		for _, test := range []struct {
			name      string
			to        string
			perPacket bool
			outcome   datapath.Outcome
			endpoint  *pod
			reason    uint8
			has       []string
			rule      uint32
		}{
			{"a pod of the same node", b.address.String() + ":7000", false, datapath.OutcomeDelivered, b, 0, []string{"endpoint", "connection", "policy", "redirect"}, 0},
			{"a pod of another node", far.address.String() + ":7000", false, datapath.OutcomeDelivered, far, 0, []string{"identity", "connection", "policy"}, 42},
			{"a port that policy does not allow there", far.address.String() + ":7001", false, datapath.OutcomeDropped, nil, 133, []string{"policy", "verdict"}, 0},
			{"a port that an ipBlock allows", far.address.String() + ":7002", false, datapath.OutcomeDelivered, far, 0, []string{"policy"}, 43},
			{"a service, by socket", "10.96.0.20:80", false, datapath.OutcomeDelivered, far, 0, []string{"service", "backend", "rewrite"}, 42},
			{"a service, per packet", "10.96.0.20:80", true, datapath.OutcomeDelivered, far, 0, []string{"service", "backend", "rewrite"}, 42},
			{"a service without backends, by socket", "10.96.0.21:80", false, datapath.OutcomeRefused, nil, 158, []string{"service", "verdict"}, 0},
			{"a service without backends, per packet", "10.96.0.21:80", true, datapath.OutcomeDropped, nil, 158, []string{"service", "verdict"}, 0},
			{"the world", world + ":7000", false, datapath.OutcomeLeaves, nil, 0, []string{"route"}, 0},
			{"the own node", n.config.NodeAddress.String() + ":7000", false, datapath.OutcomeHost, nil, 0, []string{"route"}, 0},
			{"by IPv6: a pod of the same node", at6(b.address6, 7000), false, datapath.OutcomeDelivered, b, 0, []string{"endpoint", "connection", "policy", "redirect"}, 0},
			{"by IPv6: a pod of another node", at6(far.address6, 7000), false, datapath.OutcomeDelivered, far, 0, []string{"identity", "connection", "policy"}, 42},
			{"by IPv6: a port that policy does not allow there", at6(far.address6, 7001), false, datapath.OutcomeDropped, nil, 133, []string{"policy", "verdict"}, 0},
			{"by IPv6: a service, by socket", "[fd00:10:96::20]:80", false, datapath.OutcomeDelivered, far, 0, []string{"service", "backend", "rewrite"}, 42},
			{"by IPv6: a service, per packet", "[fd00:10:96::20]:80", true, datapath.OutcomeDelivered, far, 0, []string{"service", "backend", "rewrite"}, 42},
			{"by IPv6: the world", at6(addr(world6), 7000), false, datapath.OutcomeLeaves, nil, 0, []string{"route"}, 0},
			{"by IPv6: the own node", at6(n.config.NodeAddress6, 7000), false, datapath.OutcomeHost, nil, 0, []string{"route"}, 0},
			{"an address of no pod", "10.77.1.200:7000", false, datapath.OutcomeDropped, nil, 152, []string{"policy"}, 0},
		} {
			got := c.explain(t, a, netip.MustParseAddrPort(test.to), unix.IPPROTO_TCP, test.perPacket)
			want, reason := test.outcome, test.reason
			if test.name == "an address of no pod" && n.config.Routing == datapath.RoutingNative {
				// By the routing table, which has no way.
				reason = 0
			}
			wrong := got.Outcome != want || got.Reason != reason || test.endpoint != nil && got.Endpoint != test.endpoint.endpoint.ID
			for _, kind := range test.has {
				wrong = wrong || !slices.Contains(kinds(got), kind)
			}
			if test.rule != 0 && !slices.ContainsFunc(got.Steps, func(s datapath.ExplainStep) bool { return s.Rule == test.rule && s.Kind == "policy" }) {
				wrong = true
			}
			if wrong {
				t.Errorf("%s: want %s, reason %d, steps of %v:%s", test.name, want, reason, test.has, steps(got))
			}
		}
	})
}

// contents are the entries of every map of a node, as bytes.
func (n *node) contents(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	infos, err := n.datapath.Maps()
	must(t, err)
	for _, info := range infos {
		if info.Type == ebpf.RingBuf.String() {
			continue
		}
		m, err := ebpf.LoadPinnedMap(info.PinPath, &ebpf.LoadPinOptions{ReadOnly: true})
		must(t, err)
		var lines []string
		var key []byte
		all := m.Iterate()
		if strings.Contains(info.Type, "PerCPU") || strings.Contains(info.Type, "CPU") {
			var values [][]byte
			for all.Next(&key, &values) {
				lines = append(lines, fmt.Sprintf("%x=%x", key, values))
			}
		} else {
			var value []byte
			for all.Next(&key, &value) {
				lines = append(lines, fmt.Sprintf("%x=%x", key, value))
			}
		}
		must(t, all.Err())
		m.Close()
		slices.Sort(lines)
		out[info.Name] = strings.Join(lines, "\n")
	}
	return out
}

// A question leaves nothing behind: every map of both nodes is byte for byte what it was, and no event is sent.
func TestExplainLeavesNoTrace(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		a, far := c.nodes[0].pods[0], c.nodes[1].pods[0]
		c.quiet(t)
		far.space.echoTCP(t, ":7000")
		service := someService("echo", "10.96.0.20:80", unix.IPPROTO_TCP, netip.AddrPortFrom(far.address, 7000))
		service.AffinitySeconds = 60
		must(t, c.nodes[0].datapath.UpsertService(ctx, service))
		// Connections and counters that are there already, so that there is something to change.
		conn, err := a.space.dial("tcp4", far.address.String()+":7000")
		must(t, err)
		defer conn.Close()
		_, err = ask(conn, "hello")
		must(t, err)
		_, err = a.space.try("tcp4", "10.96.0.20:80")
		must(t, err)
		// The last packets of a closed connection are on their way for a moment.
		before := settle(t, c)
		port := conn.LocalAddr().(*net.TCPAddr).Port
		for _, to := range []string{far.address.String() + ":7000", "10.96.0.20:80", world + ":80", "10.77.1.200:1", c.nodes[0].config.NodeAddress.String() + ":1"} {
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP} {
				c.explain(t, a, netip.MustParseAddrPort(to), protocol, true)
				c.explain(t, a, netip.MustParseAddrPort(to), protocol, false)
			}
		}
		// A connection that exists, by its own ports.
		out, err := c.nodes[0].datapath.Explain(ctx, datapath.Trial{Endpoint: a.endpoint.ID, Destination: far.address, DestPort: 7000, SourcePort: uint16(port), Protocol: unix.IPPROTO_TCP})
		must(t, err)
		if !strings.Contains(steps(out), "a connection that exists") {
			t.Errorf("an open connection was not found:%s", steps(out))
		}
		for i, n := range c.nodes {
			after := n.contents(t)
			for name, was := range before[i] {
				if after[name] != was {
					t.Errorf("%s: map %s was changed:%s", n.name, name, difference(was, after[name]))
				}
			}
		}
	})
}

// quiet keeps the namespaces from sending anything by themselves, as IPv6 does.
func (c *cluster) quiet(t testing.TB) {
	t.Helper()
	for _, n := range c.nodes {
		for _, s := range append([]*space{n.space}, n.pods[0].space, n.pods[1].space) {
			must(t, s.in(func() error {
				err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644)
				if errors.Is(err, os.ErrNotExist) {
					return nil
				}
				return err
			}))
		}
	}
}

// difference gives the lines that only one of two texts has.
func difference(before, after string) string {
	var out strings.Builder
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range was {
		if !slices.Contains(is, l) {
			out.WriteString("\n- " + l)
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			out.WriteString("\n+ " + l)
		}
	}
	return out.String()
}

// settle waits until nothing changes any more, and gives the contents of the nodes' maps.
func settle(t testing.TB, c *cluster) [2]map[string]string {
	t.Helper()
	var last [2]map[string]string
	for range 50 {
		var now [2]map[string]string
		same := true
		for i, n := range c.nodes {
			now[i] = n.contents(t)
			for name, was := range now[i] {
				same = same && last[i][name] == was
			}
		}
		if same {
			return now
		}
		last = now
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the maps do not come to rest")
	return last
}

// What explain says is what a real packet gets, for random policies, services and packets.
func TestExplainIsTrue(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 1))
		var pods []*pod
		for _, n := range c.nodes {
			pods = append(pods, n.pods...)
		}
		ports := []uint16{7000, 7001, 7002}
		protocols := []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP}
		for _, p := range pods {
			for _, port := range ports {
				p.space.echoTCP(t, fmt.Sprintf(":%d", port))
				p.space.echoUDP(t, fmt.Sprintf(":%d", port))
			}
		}
		counts := map[datapath.Outcome]int{}
		for round := range 6 {
			randomPolicies(t, random, pods, ports)
			fronts := [2][]netip.AddrPort{randomServices(t, random, c, pods, ports, false), randomServices(t, random, c, pods, ports, true)}
			for range 12 {
				from, protocol, v6 := pods[random.IntN(len(pods))], protocols[random.IntN(2)], random.IntN(2)
				to := netip.AddrPortFrom(pods[random.IntN(len(pods))].at(v6 == 1), ports[random.IntN(len(ports))])
				if random.IntN(3) == 0 {
					to = fronts[v6][random.IntN(len(fronts[v6]))]
				}
				if to.Addr() == from.at(v6 == 1) {
					continue
				}
				said := c.explain(t, from, to, protocol, true)
				counts[said.Outcome]++
				network := map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[protocol]
				want := said.Outcome == datapath.OutcomeDelivered
				if came := arrives(from.space, network, to.String(), want); came != want {
					t.Errorf("round %d: %s from %s to %s: explain says %s, but a packet of it arrives: %v%s", round, network, from.address, to, said.Outcome, came, steps(said))
				}
			}
		}
		t.Logf("%v", counts)
		if counts[datapath.OutcomeDelivered] < 10 || counts[datapath.OutcomeDropped] < 10 {
			t.Errorf("too one-sided to say much: %v", counts)
		}
	})
}

// arrives tells whether a first packet gets through and is answered. One that is said to be dropped is not waited for long, since
// most of them are.
func arrives(s *space, network, to string, expected bool) bool {
	wait := 120 * time.Millisecond
	if expected {
		wait = 3 * time.Second
	}
	var answered bool
	_ = s.in(func() error {
		c, err := (&net.Dialer{Timeout: wait}).Dial(network, to)
		if err != nil {
			return err
		}
		defer c.Close()
		if network == "tcp" {
			answered = true
			return nil
		}
		err = isAnswered(c, wait)
		answered = err == nil
		return err
	})
	return answered
}

func randomPolicies(t *testing.T, random *rand.Rand, pods []*pod, ports []uint16) {
	t.Helper()
	for _, p := range pods {
		withoutPolicy(t, p)
		var add []datapath.PolicyEntry
		for range random.IntN(5) {
			identity := uint32(0)
			if random.IntN(3) > 0 {
				identity = pods[random.IntN(len(pods))].endpoint.Identity
			}
			port := uint16(0)
			if random.IntN(2) == 0 {
				port = ports[random.IntN(len(ports))]
			}
			protocol := []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP}[random.IntN(2)]
			add = append(add, line(p, identity, datapath.Direction(random.IntN(2)), protocol, port, random.IntN(4) == 0, uint32(1+random.IntN(100))))
		}
		must(t, p.node.datapath.ApplyPolicy(ctx, add, nil))
		e := p.endpoint
		e.PolicyIngress, e.PolicyEgress = random.IntN(3) == 0, random.IntN(3) == 0
		must(t, p.node.datapath.UpsertEndpoint(ctx, e))
	}
}

// randomServices have one backend or none each, since a real packet and a tried one may be given different ones.
func randomServices(t *testing.T, random *rand.Rand, c *cluster, pods []*pod, ports []uint16, v6 bool) []netip.AddrPort {
	t.Helper()
	var out []netip.AddrPort
	for i := range 3 {
		name, front := fmt.Sprint(i), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}), 80)
		if v6 {
			name, front = name+"-6", netip.AddrPortFrom(addr(fmt.Sprintf("fd00:96::1:%d", i)), 80)
		}
		out = append(out, front)
		var backends []netip.AddrPort
		if random.IntN(4) > 0 {
			backends = append(backends, netip.AddrPortFrom(pods[random.IntN(len(pods))].at(v6), ports[random.IntN(len(ports))]))
		}
		for _, n := range c.nodes {
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				must(t, n.datapath.UpsertService(ctx, someService(name, front.String(), protocol, backends...)))
			}
		}
	}
	return out
}
