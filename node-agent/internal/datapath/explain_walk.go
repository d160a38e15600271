package datapath

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Verdicts of packet programs.
const (
	actUnspec   = -1
	actOK       = 0
	actShot     = 2
	actRedirect = 7
)

// dryRunPriority marks packets that are only tried, for bpf/kfree_skb.bpf.c, which would count them as dropped when they are
// freed.
const dryRunPriority = 0x6472792d

// maxHooks bounds a walk; no packet passes more of them on one node.
const maxHooks = 8

// walk follows one packet through the hooks of this node.
type walk struct {
	k     *kernel
	known snapshot
	out   Explanation
	hooks int
	// last are the raw steps of the last run; refused tells that the program dropped the packet in it, whatever it sent
	// instead.
	last    []rawStep
	refused bool
	// judged is the last verdict of policy.
	judged Event
}

func (k *kernel) startWalk() (*walk, error) {
	known, err := k.prepareDryRun()
	return &walk{k: k, known: known}, err
}

func (w *walk) add(s ExplainStep) { w.out.Steps = append(w.out.Steps, s) }

func (w *walk) note(format string, arguments ...any) {
	w.out.Notes = append(w.out.Notes, fmt.Sprintf(format, arguments...))
}

// testContext is the kernel's struct __sk_buff as far as BPF_PROG_TEST_RUN takes it.
type testContext struct {
	Len, PktType, Mark, QueueMapping, Protocol, VlanPresent, VlanTCI, VlanProto, Priority uint32
	IngressIfindex, Ifindex, TCIndex                                                      uint32
	CB                                                                                    [5]uint32
	Rest                                                                                  [124]byte
}

// run runs one program on a frame and takes in its steps. It gives the verdict and the frame as the program left it.
func (w *walk) run(program string, frame []byte, context testContext) (int, []byte, error) {
	p := w.k.dry.objects.programs[program]
	if p == nil {
		return 0, nil, fmt.Errorf("there is no program %s", program)
	}
	if w.hooks++; w.hooks > maxHooks {
		return 0, nil, fmt.Errorf("the packet goes round in circles: it came to the %dth hook", w.hooks)
	}
	if err := w.k.dry.drain(func([]byte) {}); err != nil {
		return 0, nil, err
	}
	context.Priority = dryRunPriority
	options := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context}
	verdict, err := p.Run(options)
	if err != nil {
		return 0, nil, fmt.Errorf("running %s: %w", program, err)
	}
	w.last, w.refused = w.last[:0], false
	err = w.k.dry.drain(func(raw []byte) {
		var s ExplainStep
		if r, ok := decodeStep(raw); ok {
			w.last = append(w.last, r)
			s = r.step()
		} else if e, ok := decodeEvent(raw, 0); ok {
			s = eventStep(e)
			w.refused = w.refused || e.Type == EventDrop
			if e.Type == EventPolicyVerdict {
				w.judged = e
			}
		} else {
			return
		}
		s.Hook = program
		if program == "explain_socket" {
			s.Hook = "connect"
		}
		w.add(s)
	})
	return int(int32(verdict)), options.DataOut, err
}

// find gives the last raw step of a kind.
func (w *walk) find(kind uint8) (rawStep, bool) {
	for _, r := range slices.Backward(w.last) {
		if r.Kind == kind {
			return r, true
		}
	}
	return rawStep{}, false
}

// dropped takes the reason from the program's own event.
func (w *walk) dropped() {
	w.out.Outcome = OutcomeDropped
	for _, s := range slices.Backward(w.out.Steps) {
		if s.Verdict == "dropped" {
			w.out.Reason, w.out.Rule = s.Reason, s.Rule
			return
		}
	}
}

// send lets a pod of this node send the packet.
func (w *walk) send(t Trial) error {
	e, ok := w.known.endpoints[t.Endpoint]
	if !ok {
		return fmt.Errorf("there is no endpoint %d on this node", t.Endpoint)
	}
	destination := t.Destination.Unmap()
	i := slices.IndexFunc(e.Addresses, func(a netip.Addr) bool { return a.Unmap().Is4() == destination.Is4() })
	if i < 0 {
		return fmt.Errorf("endpoint %d has no address of the family of %s", t.Endpoint, destination)
	}
	p := packetSpec{
		sourceMAC: e.PodMAC, destMAC: e.HostMAC, source: e.Addresses[i].Unmap(), destination: destination, protocol: t.Protocol,
		sourcePort: t.SourcePort, destPort: t.DestPort,
	}
	if p.sourcePort == 0 {
		p.sourcePort = uint16(40000 + rand.IntN(20000))
	}
	context := testContext{Ifindex: uint32(e.InterfaceIndex)}
	if w.k.config.KubeProxyReplacement && !t.PerPacket && (t.Protocol == unix.IPPROTO_TCP || t.Protocol == unix.IPPROTO_UDP) {
		asked := context
		asked.CB = [5]uint32{uint32(e.NetnsCookie), uint32(e.NetnsCookie >> 32)}
		if _, _, err := w.run("explain_socket", p.frame(), asked); err != nil {
			return err
		}
		if r, ok := w.find(stepSocket); ok && r.Result < 0 {
			w.out.Outcome, w.out.Reason = OutcomeRefused, uint8(-r.Result)
			w.add(ExplainStep{Hook: "connect", Kind: "verdict", Verdict: "refused", Reason: w.out.Reason, Text: "the process gets an error at once"})
			return nil
		}
		if r, ok := w.find(stepRewrite); ok {
			p.destination, p.destPort = fromWire(r.Address[1]), fromPort(r.Port[1])
		}
	}
	verdict, frame, err := w.run("from_pod", p.frame(), context)
	if err != nil {
		return err
	}
	return w.follow(verdict, frame, e.InterfaceIndex)
}

// arrive takes a frame from another node in.
func (w *walk) arrive(frame []byte) error {
	h, ok := parseFrame(frame)
	if !ok {
		return fmt.Errorf("the frame holds no IP packet")
	}
	device, err := w.deviceTowards(h.source)
	if err != nil {
		return err
	}
	if refused, err := w.prefilter(device.Attrs().Name, frame, h.source); err != nil || refused {
		return err
	}
	index := device.Attrs().Index
	verdict, after, err := w.run("from_netdev", frame, testContext{Ifindex: uint32(index)})
	if err != nil {
		return err
	}
	local := h.destination == w.k.config.NodeAddress.Unmap() || h.destination == w.k.config.NodeAddress6
	if verdict == actUnspec && local && h.protocol == unix.IPPROTO_UDP && h.destPort == w.k.tunnelPort() && w.k.config.Routing == RoutingTunnel {
		return w.overlay(h, frame)
	}
	return w.follow(verdict, after, index)
}

// overlay is the tunnel device's way: the kernel takes the outer headers off, from_overlay gets the rest.
func (w *walk) overlay(h headers, frame []byte) error {
	if len(frame) < h.payload+8+etherHeader {
		return fmt.Errorf("the tunnel's packet is cut off")
	}
	l, err := netlink.LinkByName(w.k.tunnelDevice())
	if err != nil {
		return fmt.Errorf("finding the tunnel device: %w", err)
	}
	w.add(ExplainStep{Hook: "tunnel device", Kind: "decapsulation", Text: "left to the tunnel device, which takes the outer headers off"})
	source := h.source.As16()
	context := testContext{Ifindex: uint32(l.Attrs().Index)}
	context.CB[0] = binary.BigEndian.Uint32(frame[h.payload+4:]) >> 8
	for i := range 4 {
		context.CB[1+i] = binary.NativeEndian.Uint32(source[i*4:])
	}
	verdict, after, err := w.run("from_overlay", frame[h.payload+8:], context)
	if err != nil {
		return err
	}
	return w.follow(verdict, after, l.Attrs().Index)
}

// deviceTowards is the node's device by which packets of an address come in.
func (w *walk) deviceTowards(a netip.Addr) (netlink.Link, error) {
	if hops, err := netlink.RouteGet(a.AsSlice()); err == nil && len(hops) > 0 {
		if l, err := netlink.LinkByIndex(hops[0].LinkIndex); err == nil && slices.Contains(w.k.config.Devices, l.Attrs().Name) {
			return l, nil
		}
	}
	l, err := netlink.LinkByName(w.k.config.Devices[0])
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", w.k.config.Devices[0], err)
	}
	return l, nil
}

// follow goes on after an ingress program with interface `at`.
func (w *walk) follow(verdict int, frame []byte, at int) error {
	if w.refused {
		// A refusal may go back in its place.
		w.dropped()
		return nil
	}
	switch verdict {
	case actShot:
		w.dropped()
		return nil
	case actRedirect:
		if r, ok := w.find(stepProxy); ok {
			return w.proxied(r)
		}
		r, ok := w.find(stepRedirect)
		if !ok {
			return fmt.Errorf("a program redirected the packet without a word")
		}
		if r.What == redirectPeer {
			return w.deliver(int(r.Number[0]))
		}
		return w.leave(int(r.Number[0]), frame)
	}
	if r, ok := w.find(stepProxy); ok {
		return w.proxied(r)
	}
	return w.stack(frame, at)
}

func (w *walk) proxied(r rawStep) error {
	w.out.Outcome, w.out.ProxyPort = OutcomeProxy, fromPort(r.Port[0])
	v := w.judged
	w.out.Proxied = Proxied{Endpoint: v.Endpoint, Direction: v.Direction, Peer: v.SourceIdentity, Address: v.Source, Protocol: v.Protocol, Port: v.DestPort}
	if v.Direction == Egress {
		w.out.Proxied.Peer, w.out.Proxied.Address = v.DestIdentity, v.Destination
	}
	for _, s := range slices.Backward(w.out.Steps) {
		if s.Kind == "policy" && s.Rule != 0 {
			w.out.Rule = s.Rule
			break
		}
	}
	return nil
}

func (w *walk) endpointBehind(ifindex int) (Endpoint, bool) {
	for _, e := range w.known.endpoints {
		if e.InterfaceIndex == ifindex {
			return e, true
		}
	}
	return Endpoint{}, false
}

func (w *walk) deliver(ifindex int) error {
	e, ok := w.endpointBehind(ifindex)
	if !ok {
		return fmt.Errorf("no endpoint is behind interface %d", ifindex)
	}
	w.out.Outcome, w.out.Endpoint = OutcomeDelivered, e.ID
	return nil
}

// stack is the host's own routing of a packet that came in by interface `at`.
func (w *walk) stack(frame []byte, at int) error {
	h, ok := parseFrame(frame)
	if !ok {
		w.note("What the host's stack does with a packet that is not IP was not tried.")
		w.out.Outcome = OutcomeHost
		return nil
	}
	options := &netlink.RouteGetOptions{SrcAddr: h.source.AsSlice()}
	if in, err := netlink.LinkByIndex(at); err == nil {
		options.Iif = in.Attrs().Name
	}
	hops, err := netlink.RouteGetWithOptions(h.destination.AsSlice(), options)
	step := ExplainStep{Hook: "routing table", Kind: "route", Map: "routing table", Key: h.destination.String()}
	if err != nil || len(hops) == 0 {
		step.Verdict, step.Value = "dropped", fmt.Sprint(err)
		step.Text = fmt.Sprintf("the host has no way to %s: %v", h.destination, err)
		w.add(step)
		w.out.Outcome = OutcomeDropped
		w.note("The host's stack drops it; the kernel tells the reason as a drop of its own when it happens.")
		return nil
	}
	hop := hops[0]
	if hop.Type == unix.RTN_LOCAL {
		step.Value, step.Text = "local", fmt.Sprintf("%s is an address of the node itself", h.destination)
		w.add(step)
		w.out.Outcome = OutcomeHost
		return nil
	}
	l, err := netlink.LinkByIndex(hop.LinkIndex)
	if err != nil {
		return fmt.Errorf("finding interface %d: %w", hop.LinkIndex, err)
	}
	step.Found, step.Value = true, "device "+l.Attrs().Name
	if hop.Gw != nil {
		step.Value += ", next hop " + hop.Gw.String()
	}
	step.Text = "the host's routing table: " + step.Value
	w.add(step)
	if e, ok := w.endpointBehind(hop.LinkIndex); ok {
		verdict, _, err := w.run("to_pod", frame, testContext{Ifindex: uint32(hop.LinkIndex)})
		if err != nil {
			return err
		}
		if verdict == actShot {
			w.dropped()
			return nil
		}
		w.out.Outcome, w.out.Endpoint = OutcomeDelivered, e.ID
		return nil
	}
	if l.Attrs().Name == hostName {
		verdict, after, err := w.run("from_host", frame, testContext{Ifindex: uint32(hop.LinkIndex)})
		if err != nil {
			return err
		}
		return w.follow(verdict, after, hop.LinkIndex)
	}
	return w.leave(hop.LinkIndex, frame)
}

// leave puts the packet on a device of the node, the tunnel's included.
func (w *walk) leave(ifindex int, frame []byte) error {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("finding interface %d: %w", ifindex, err)
	}
	w.out.Device = l.Attrs().Name
	if r, ok := w.find(stepEncap); ok {
		if r.What == 1 {
			node := fromWire(r.Address[0])
			own := w.k.config.NodeAddress
			if node.Is6() {
				own = w.k.config.NodeAddress6
			}
			frame = inTunnel(frame, own, node, w.k.tunnelPort(), r.Number[0])
		}
		return w.onward(fromWire(r.Address[0]), frame)
	}
	if e, ok := w.endpointBehind(ifindex); ok {
		return w.deliver(e.InterfaceIndex)
	}
	if w.k.dry.objects.programs["to_netdev"] != nil && slices.Contains(w.k.config.Devices, w.out.Device) {
		verdict, after, err := w.run("to_netdev", frame, testContext{Ifindex: uint32(ifindex)})
		if err != nil {
			return err
		}
		if verdict == actShot {
			w.dropped()
			return nil
		}
		frame = after
	}
	h, ok := parseFrame(frame)
	if !ok {
		return fmt.Errorf("no IP packet is left")
	}
	for _, n := range w.known.nodes {
		if n.Address == h.destination || slices.ContainsFunc(n.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(h.destination) }) {
			return w.onward(n.Address, frame)
		}
	}
	w.out.Outcome = OutcomeLeaves
	return nil
}

func (w *walk) onward(node netip.Addr, frame []byte) error {
	w.out.Outcome, w.out.Node, w.out.Frame = OutcomeOnward, node, slices.Clone(frame)
	return nil
}

func (k *kernel) tunnelPort() uint16   { return k.config.tunnelPort() }
func (k *kernel) tunnelDevice() string { return k.config.TunnelDevice() }
