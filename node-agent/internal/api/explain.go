package api

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/certificates"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/l7"
	"fairlead.dev/node-agent/policy"
)

// maxHops bounds how many nodes a question is passed on to.
const maxHops = 4

var protocolNumbers = map[string]uint8{"": 6, "tcp": 6, "udp": 17, "sctp": 132, "icmp": 1}

// Explain tells what would become of a packet, on this node and on those that it goes on to.
func (s *Service) Explain(ctx context.Context, r *fairleadv1.ExplainRequest) (*fairleadv1.ExplainResponse, error) {
	p, err := s.parts()
	if err != nil {
		return nil, err
	}
	arrival := r.GetArrival()
	if arrival != nil && !s.Local && !certificates.IsAgent(ctx, p.ServerName) {
		return nil, status.Error(codes.PermissionDenied, "only agents of the cluster may pass packets on")
	}
	if arrival.GetHops() > maxHops {
		return nil, status.Errorf(codes.ResourceExhausted, "the packet was passed on %d times: it goes round in circles", arrival.GetHops())
	}
	x := explainer{Service: s, parts: p, request: r, out: &fairleadv1.ExplainResponse{}}
	if len(arrival.GetFrame()) > 0 {
		err = x.try(ctx, datapath.Trial{Frame: arrival.GetFrame()})
	} else {
		err = x.ask(ctx)
	}
	if err != nil {
		return nil, err
	}
	return x.out, nil
}

// explainer answers one question.
type explainer struct {
	*Service
	parts   *Parts
	request *fairleadv1.ExplainRequest
	out     *fairleadv1.ExplainResponse
	// asked is the family that the question names; empty for either.
	asked family
	// families that the sender may send in, the preferred one first.
	families []family
}

// ask answers for a pod of this node, or passes the question on to the node that has it.
func (x *explainer) ask(ctx context.Context) error {
	r := x.request
	protocol, ok := protocolNumbers[strings.ToLower(r.GetProtocol())]
	if !ok {
		return status.Errorf(codes.InvalidArgument, "%q is no protocol; use tcp, udp, sctp or icmp", r.GetProtocol())
	}
	if protocol != 1 && (r.GetPort() == 0 || r.GetPort() > 65535) || r.GetSourcePort() > 65535 {
		return status.Errorf(codes.InvalidArgument, "port %d: %s needs one from 1 to 65535", r.GetPort(), strings.ToUpper(r.GetProtocol()))
	}
	var err error
	if x.asked, err = askedFamily(r.GetFamily()); err != nil {
		return err
	}
	from, here := x.local(r.GetFrom())
	if !here {
		return x.passOn(ctx)
	}
	if x.families, err = familiesToAsk(x.asked, r.GetFrom(), addressesOf(x.parts, from.ID)); err != nil {
		return err
	}
	destination, port, err := x.destination(ctx, r.GetTo(), uint16(r.GetPort()), protocol)
	if err != nil {
		return err
	}
	x.out.Family = strings.ToLower(string(familyOf(destination)))
	return x.try(ctx, datapath.Trial{Endpoint: from.ID, Destination: destination, Protocol: protocol, SourcePort: uint16(r.GetSourcePort()),
		DestPort: port, PerPacket: r.GetPerPacket()})
}

// local finds an endpoint of this node by "namespace/pod" or address.
func (x *explainer) local(name string) (endpoints.Endpoint, bool) {
	address, _ := netip.ParseAddr(name)
	for _, e := range x.parts.Endpoints.List() {
		if e.Pod() == name {
			return e, true
		}
		if address.IsValid() {
			for _, a := range addressesOf(x.parts, e.ID) {
				if a.Unmap() == address.Unmap() {
					return e, true
				}
			}
		}
	}
	return endpoints.Endpoint{}, false
}

// addressesOf an endpoint, as the datapath has them.
func addressesOf(p *Parts, id datapath.EndpointID) []netip.Addr {
	list, err := p.Datapath.Endpoints()
	if err != nil {
		return nil
	}
	for _, e := range list {
		if e.ID == id {
			return e.Addresses
		}
	}
	return nil
}

// passOn asks the node that has the sender.
func (x *explainer) passOn(ctx context.Context) error {
	name := x.request.GetFrom()
	if x.request.GetArrival() != nil {
		return status.Errorf(codes.NotFound, "node %s has no pod %s (any more)", x.Agent.NodeName, name)
	}
	node, ok := x.nodeOfPod(name)
	if !ok {
		return status.Errorf(codes.NotFound, "no pod %q is known; write namespace/pod, or the pod's address. Pods of the host's network have no programs of their own", name)
	}
	request := proto.CloneOf(x.request)
	request.Arrival = &fairleadv1.ExplainArrival{Hops: 1}
	answer, err := x.askNode(ctx, node, request)
	if err != nil {
		return err
	}
	x.out = answer
	return nil
}

// nodeOfPod finds the node of a pod by "namespace/pod" or address.
func (x *explainer) nodeOfPod(name string) (datapath.Node, bool) {
	address, _ := netip.ParseAddr(name)
	for _, e := range x.parts.Cache.Entries() {
		if e.Owner.PodName == "" || e.Owner.Namespace+"/"+e.Owner.PodName != name && (!address.IsValid() || e.Prefix.Addr().Unmap() != address.Unmap()) {
			continue
		}
		for _, n := range x.parts.Nodes.Others() {
			if n.Name == e.Owner.NodeName {
				return n, true
			}
		}
	}
	return datapath.Node{}, false
}

func (x *explainer) askNode(ctx context.Context, n datapath.Node, r *fairleadv1.ExplainRequest) (*fairleadv1.ExplainResponse, error) {
	client, err := x.parts.Announcer.Client(n)
	if err != nil {
		return nil, internal("asking node "+n.Name, err)
	}
	return client.Explain(ctx, r)
}

// destination resolves "service:namespace/name", "namespace/pod" or an address.
func (x *explainer) destination(ctx context.Context, to string, port uint16, protocol uint8) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(to); err == nil {
		a, err = x.choose(to, []netip.Addr{a})
		return a, port, err
	}
	if name, ok := strings.CutPrefix(to, "service:"); ok {
		return x.serviceAddress(ctx, name, port, protocol)
	}
	if e, ok := x.local(to); ok {
		if list := addressesOf(x.parts, e.ID); len(list) > 0 {
			a, err := x.choose(to, list)
			return a, port, err
		}
	}
	var elsewhere []netip.Addr
	for _, e := range x.parts.Cache.Entries() {
		if e.Owner.PodName != "" && e.Owner.Namespace+"/"+e.Owner.PodName == to && e.Prefix.IsSingleIP() {
			elsewhere = append(elsewhere, e.Prefix.Addr())
		}
	}
	if len(elsewhere) > 0 {
		a, err := x.choose(to, elsewhere)
		return a, port, err
	}
	// A service without the prefix, where no pod has the name.
	if a, p, err := x.serviceAddress(ctx, to, port, protocol); err == nil || status.Code(err) == codes.InvalidArgument {
		return a, p, err
	}
	return netip.Addr{}, 0, status.Errorf(codes.NotFound, "%q is neither an address nor a pod nor a service that this node knows; write namespace/pod, service:namespace/name or an address", to)
}

func (x *explainer) serviceAddress(ctx context.Context, name string, port uint16, protocol uint8) (netip.Addr, uint16, error) {
	all, err := x.ListServices(ctx, &fairleadv1.ListServicesRequest{})
	if err != nil {
		return netip.Addr{}, 0, err
	}
	var ports []string
	var addresses []netip.Addr
	for _, v := range all.GetServices() {
		if v.GetNamespace()+"/"+v.GetName() != name || v.GetKind() != "ClusterIP" {
			continue
		}
		ports = append(ports, fmt.Sprintf("%d/%d", v.GetPort(), v.GetProtocol()))
		if v.GetPort() == uint32(port) && v.GetProtocol() == uint32(protocol) {
			a, err := netip.ParseAddr(v.GetAddress())
			if err != nil {
				return netip.Addr{}, 0, internal("reading a service's address", err)
			}
			addresses = append(addresses, a)
		}
	}
	if len(addresses) > 0 {
		a, err := x.choose("service "+name, addresses)
		return a, port, err
	}
	if len(ports) == 0 {
		return netip.Addr{}, 0, status.Errorf(codes.NotFound, "service %s has no ClusterIP that this node knows", name)
	}
	return netip.Addr{}, 0, status.Errorf(codes.NotFound, "service %s has no port %d of this protocol; it has (port/protocol number) %s", name, port, strings.Join(ports, ", "))
}

// try runs the programs of this node and goes on where the packet goes.
func (x *explainer) try(ctx context.Context, t datapath.Trial) error {
	answer, err := x.parts.Datapath.Explain(ctx, t)
	if err != nil {
		return internal("trying the packet", err)
	}
	for _, s := range answer.Steps {
		x.out.Steps = append(x.out.Steps, x.step(s))
	}
	x.out.Notes = append(x.out.Notes, answer.Notes...)
	x.out.Verdict, x.out.DropReason = string(answer.Outcome), uint32(answer.Reason)
	if answer.Reason != 0 {
		x.out.DropReasonName = flowpb.DropReason(answer.Reason).String()
	}
	switch answer.Outcome {
	case datapath.OutcomeOnward:
		return x.onward(ctx, answer)
	case datapath.OutcomeDelivered:
		x.out.Summary = "Delivered to " + x.nameOf(answer.Endpoint) + " on node " + x.Agent.NodeName + "."
	case datapath.OutcomeHost:
		x.out.Summary = "Delivered to node " + x.Agent.NodeName + " itself."
	case datapath.OutcomeLeaves:
		x.out.Summary = fmt.Sprintf("Leaves the cluster by %s of node %s.", answer.Device, x.Agent.NodeName)
	case datapath.OutcomeRefused:
		x.out.Summary = "The process gets an error at once: " + x.out.DropReasonName + "."
	case datapath.OutcomeProxy:
		return x.content(answer)
	case datapath.OutcomeDropped:
		x.out.Summary = fmt.Sprintf("Dropped on node %s: %s", x.Agent.NodeName, orText(x.out.DropReasonName, "the host has no way for it"))
		if rule := x.rule(answer.Rule); rule != "" {
			x.out.Summary += ", by " + rule
		}
		if answer.Network.IsValid() {
			x.out.Summary += fmt.Sprintf(", because the prefilter refuses %s", answer.Network)
			if by := x.refusedBy(answer.Network); by != "" {
				x.out.Summary += ", by " + by
			}
		}
		x.out.Summary += "."
	}
	return nil
}

// content asks the rules of layer 7, as the proxy does.
func (x *explainer) content(answer datapath.Explanation) error {
	x.out.Summary = fmt.Sprintf("Goes to the proxy of node %s at port %d, whose rules decide by the content.", x.Agent.NodeName, answer.ProxyPort)
	if x.request.GetL7() == "" {
		x.out.Notes = append(x.out.Notes, "Say what is asked for (l7: GET http://host/path, or DNS name) to have the proxy's rules judge it.")
		return nil
	}
	q, err := l7.ParseQuestion(x.request.GetL7())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	c := answer.Proxied
	rules := x.parts.Policies.L7(c.Endpoint, policy.Direction(c.Direction), policy.NumericIdentity(c.Peer), c.Address, c.Protocol, c.Port)
	number, allowed := l7.Decide(rules, q)
	step := &fairleadv1.ExplainStep{Node: x.Agent.NodeName, Hook: "proxy", Kind: "l7", Key: x.request.GetL7(), Rule: x.rule(uint32(number))}
	if !allowed {
		step.Verdict, step.Text = "dropped", "no rule allows "+x.request.GetL7()
		x.out.Verdict = "dropped"
		x.out.Summary = fmt.Sprintf("The proxy of node %s refuses it: no rule allows %s.", x.Agent.NodeName, x.request.GetL7())
	} else {
		step.Verdict, step.Text = "forwarded", "allowed by "+orText(step.GetRule(), "a rule without conditions")
		x.out.Summary = fmt.Sprintf("The proxy of node %s lets it pass: %s.", x.Agent.NodeName, step.GetText())
		x.out.Notes = append(x.out.Notes, "What the proxy sends on was not tried; it is a connection of its own, with the pod's address.")
	}
	x.out.Steps = append(x.out.Steps, step)
	return nil
}

func orText(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// onward asks the node that gets the packet next. Where it does not answer, that is the answer.
func (x *explainer) onward(ctx context.Context, answer datapath.Explanation) error {
	for _, n := range x.parts.Nodes.Others() {
		if n.Primary() != answer.Node {
			continue
		}
		r := x.request
		next, err := x.askNode(ctx, n, &fairleadv1.ExplainRequest{From: r.GetFrom(), To: r.GetTo(), Port: r.GetPort(), Protocol: r.GetProtocol(), L7: r.GetL7(),
			Arrival: &fairleadv1.ExplainArrival{Frame: answer.Frame, Hops: r.GetArrival().GetHops() + 1}})
		if err != nil {
			x.out.Verdict, x.out.Summary = "unknown", fmt.Sprintf("Goes on to node %s, whose agent could not be asked.", n.Name)
			x.out.Notes = append(x.out.Notes, fmt.Sprintf("Node %s: %v", n.Name, err))
			return nil
		}
		next.Steps = append(x.out.Steps, next.Steps...)
		next.Notes = append(x.out.Notes, next.Notes...)
		next.Family = x.out.Family
		x.out = next
		return nil
	}
	x.out.Verdict, x.out.Summary = "unknown", fmt.Sprintf("Goes on to node %s, which this node does not know by name.", answer.Node)
	return nil
}

func (x *explainer) nameOf(id datapath.EndpointID) string {
	for _, e := range x.parts.Endpoints.List() {
		if e.ID == id {
			return e.Pod()
		}
	}
	return fmt.Sprintf("endpoint %d", id)
}

// rule names a rule; empty for none.
func (x *explainer) rule(number uint32) string {
	if info, ok := x.parts.Policies.Rule(number); ok {
		return ruleText(info)
	}
	return ""
}

// step gives names to what the datapath knows by number.
func (x *explainer) step(s datapath.ExplainStep) *fairleadv1.ExplainStep {
	out := &fairleadv1.ExplainStep{Node: x.Agent.NodeName, Hook: s.Hook, Kind: s.Kind, Map: s.Map, Key: s.Key, Value: s.Value, Rule: x.rule(s.Rule),
		Rewrite: s.Rewrite, Verdict: s.Verdict, Text: s.Text, DropReason: uint32(s.Reason)}
	if by := x.refusedBy(s.Network); by != "" {
		out.Rule = by
	}
	if labels := x.identity(s.Identity); labels != "" {
		out.Text += " (" + labels + ")"
	}
	if out.Rule != "" {
		out.Text += ", by " + out.Rule
	}
	if s.Reason != 0 {
		out.DropReasonName = flowpb.DropReason(s.Reason).String()
		out.Text += ": " + out.DropReasonName
	}
	if s.Line != 0 {
		out.Source = fmt.Sprintf("%s:%d", datapath.SourceFile(s.File), s.Line)
	}
	return out
}

// refusedBy says where a refused network is configured; empty where that is not known (any more).
func (x *explainer) refusedBy(n netip.Prefix) string {
	if !n.IsValid() || x.parts.RefusedBy == nil {
		return ""
	}
	return strings.Join(x.parts.RefusedBy(n), " and ")
}

// identity is who has a number: labels without the cluster's and the service account's, which say little.
func (x *explainer) identity(number uint32) string {
	if number == 0 {
		return ""
	}
	var out []string
	for _, l := range x.parts.labels(number) {
		if !strings.HasPrefix(l, "k8s:io.cilium.k8s.") {
			out = append(out, strings.TrimPrefix(l, "k8s:"))
		}
	}
	if len(out) == 0 && policy.NumericIdentity(number).IsReserved() {
		return policy.NumericIdentity(number).String()
	}
	return strings.Join(out, ", ")
}
