package flows

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"fairlead.dev/node-agent/internal/datapath"
)

// view is a record as the filters see it: sides already turned the way in which they are shown.
type view struct {
	*record
	store                  *Store
	sequence               uint64
	from, to               *EndpointInfo
	fromService, toService *ServiceInfo
	fromAddress, toAddress netip.Addr
	fromPort, toPort       uint16
	hasL4WithPort          bool
}

func (s *Store) view(r *record, sequence uint64) view {
	v := view{
		record: r, store: s, sequence: sequence,
		from: r.source, to: r.destination, fromService: r.sourceService, toService: r.destinationService,
		fromAddress: unpackAddress(r.sourceAddress), toAddress: unpackAddress(r.destinationAddress),
		fromPort: r.sourcePort, toPort: r.destinationPort,
		hasL4WithPort: r.protocol == protocolTCP || r.protocol == protocolUDP || r.protocol == protocolSCTP,
	}
	if r.swapped() {
		v.from, v.to = v.to, v.from
		v.fromService, v.toService = v.toService, v.fromService
		v.fromAddress, v.toAddress = v.toAddress, v.fromAddress
		v.fromPort, v.toPort = v.toPort, v.fromPort
	}
	return v
}

// predicate decides about one flow without decoding it.
type predicate func(*view) bool

// filter is a whitelist and a blacklist: a flow passes when it matches one of the whitelist (or that is empty) and none of
// the blacklist. Within one FlowFilter all fields must match; the values of one field are alternatives.
type filter struct{ allow, deny []predicate }

func (f *filter) passes(v *view) bool {
	match := func(p predicate) bool { return p(v) }
	return (len(f.allow) == 0 || slices.ContainsFunc(f.allow, match)) && !slices.ContainsFunc(f.deny, match)
}

// newFilter compiles both lists; an error says which value of which field is wrong.
func newFilter(allow, deny []*flowpb.FlowFilter) (*filter, error) {
	f := &filter{}
	for _, list := range []struct {
		name string
		in   []*flowpb.FlowFilter
		out  *[]predicate
	}{{"whitelist", allow, &f.allow}, {"blacklist", deny, &f.deny}} {
		for i, ff := range list.in {
			p, err := compile(ff)
			if err != nil {
				return nil, fmt.Errorf("%s filter %d: %w", list.name, i+1, err)
			}
			*list.out = append(*list.out, p)
		}
	}
	return f, nil
}

// compiler collects the conditions of one FlowFilter.
type compiler struct {
	conditions []predicate
	err        error
}

func (c *compiler) add(p predicate) { c.conditions = append(c.conditions, p) }

func (c *compiler) try(field string, p predicate, err error) {
	if err != nil {
		if c.err == nil {
			c.err = fmt.Errorf("%s: %w", field, err)
		}
		return
	}
	c.add(p)
}

func never(*view) bool { return false }

func compile(ff *flowpb.FlowFilter) (predicate, error) {
	c := &compiler{}
	c.sides(ff)
	c.packet(ff)
	c.node(ff)
	if len(ff.GetExperimental().GetCelExpression()) > 0 {
		c.try("cel_expression", nil, fmt.Errorf("this server does not evaluate CEL expressions; use the other filters"))
	}
	c.application(ff)
	// These look at traces or at DNS names of addresses, of which a flow has none.
	if len(ff.GetTraceId())+len(ff.GetIpTraceId())+len(ff.GetSourceFqdn())+len(ff.GetDestinationFqdn()) > 0 {
		c.add(never)
	}
	if c.err != nil {
		return nil, c.err
	}
	return func(v *view) bool {
		for _, condition := range c.conditions {
			if !condition(v) {
				return false
			}
		}
		return true
	}, nil
}

// sides adds the conditions that exist for source and destination.
func (c *compiler) sides(ff *flowpb.FlowFilter) {
	from := func(v *view) *EndpointInfo { return v.from }
	to := func(v *view) *EndpointInfo { return v.to }
	pod := func(e *EndpointInfo) (string, string) { return e.Namespace, e.PodName }
	svc := func(s *ServiceInfo) (string, string) {
		if s == nil {
			return "", ""
		}
		return s.Namespace, s.Name
	}
	for _, side := range []struct {
		name                               string
		pods, services, labels, ips, ports []string
		clusters                           []string
		workloads                          []*flowpb.Workload
		identities                         []uint32
		who                                func(*view) *EndpointInfo
		service                            func(*view) *ServiceInfo
		address                            func(*view) netip.Addr
		port                               func(*view) uint16
	}{
		{
			"source", ff.GetSourcePod(), ff.GetSourceService(), ff.GetSourceLabel(), ff.GetSourceIp(), ff.GetSourcePort(),
			ff.GetSourceClusterName(), ff.GetSourceWorkload(), ff.GetSourceIdentity(), from,
			func(v *view) *ServiceInfo { return v.fromService },
			func(v *view) netip.Addr { return v.fromAddress },
			func(v *view) uint16 { return v.fromPort },
		},
		{
			"destination", ff.GetDestinationPod(), ff.GetDestinationService(), ff.GetDestinationLabel(),
			ff.GetDestinationIp(), ff.GetDestinationPort(), ff.GetDestinationClusterName(), ff.GetDestinationWorkload(),
			ff.GetDestinationIdentity(), to,
			func(v *view) *ServiceInfo { return v.toService },
			func(v *view) netip.Addr { return v.toAddress },
			func(v *view) uint16 { return v.toPort },
		},
	} {
		if side.pods != nil {
			match, err := names(side.pods)
			c.try(side.name+"_pod", func(v *view) bool { return match(pod(side.who(v))) }, err)
		}
		if side.services != nil {
			match, err := names(side.services)
			c.try(side.name+"_service", func(v *view) bool { return match(svc(side.service(v))) }, err)
		}
		if side.labels != nil {
			match, err := labelSelectors(side.labels)
			c.try(side.name+"_label", func(v *view) bool { return match(side.who(v).Labels) }, err)
		}
		if side.ips != nil {
			match, err := addresses(side.ips)
			c.try(side.name+"_ip", func(v *view) bool { return match(side.address(v)) }, err)
		}
		if side.ports != nil {
			wanted, err := ports(side.ports)
			c.try(side.name+"_port", func(v *view) bool {
				return v.hasL4WithPort && slices.Contains(wanted, side.port(v))
			}, err)
		}
		if side.clusters != nil {
			c.add(func(v *view) bool { return slices.Contains(side.clusters, v.store.clusterName(side.who(v))) })
		}
		if side.identities != nil {
			c.add(func(v *view) bool { return slices.Contains(side.identities, side.who(v).Identity) })
		}
		if len(side.workloads) > 0 {
			c.add(func(v *view) bool {
				who := side.who(v)
				return who.WorkloadName != "" && slices.ContainsFunc(side.workloads, func(w *flowpb.Workload) bool {
					return (w.GetName() == "" || w.GetName() == who.WorkloadName) &&
						(w.GetKind() == "" || w.GetKind() == who.WorkloadKind)
				})
			})
		}
	}
}

// packet adds the conditions on what happened to which packet.
func (c *compiler) packet(ff *flowpb.FlowFilter) {
	if wanted := ff.GetVerdict(); wanted != nil {
		c.add(func(v *view) bool { return slices.Contains(wanted, v.verdict()) })
	}
	if wanted := ff.GetDropReasonDesc(); wanted != nil {
		c.add(func(v *view) bool {
			return v.verdict() == flowpb.Verdict_DROPPED && slices.Contains(wanted, flowpb.DropReason(v.dropReason()))
		})
	}
	if wanted := ff.GetTrafficDirection(); len(wanted) > 0 {
		c.add(func(v *view) bool { return slices.Contains(wanted, v.trafficDirection()) })
	}
	if wanted := ff.GetEventType(); len(wanted) > 0 {
		c.add(func(v *view) bool {
			return slices.ContainsFunc(wanted, func(f *flowpb.EventTypeFilter) bool {
				return (f.GetType() == 0 || f.GetType() == int32(v.eventType)) &&
					(!f.GetMatchSubType() || f.GetSubType() == int32(v.subType))
			})
		})
	}
	if wanted := ff.GetReply(); len(wanted) > 0 {
		c.add(func(v *view) bool {
			reply, known := v.isReply()
			// Drops count as "no reply", which is what Hubble does for the sake of its UI.
			return (known || v.verdict() == flowpb.Verdict_DROPPED) && slices.Contains(wanted, reply)
		})
	}
	if wanted := ff.GetEncrypted(); len(wanted) > 0 {
		c.add(func(*view) bool { return slices.Contains(wanted, false) })
	}
	if wanted := ff.GetProtocol(); wanted != nil {
		match, err := protocols(wanted)
		c.try("protocol", match, err)
	}
	if wanted := ff.GetTcpFlags(); wanted != nil {
		var masks []uint8
		for _, f := range wanted {
			if !f.GetNS() { // no event carries NS
				masks = append(masks, flagMask(f))
			}
		}
		c.add(func(v *view) bool {
			return v.protocol == protocolTCP && v.eventType != datapath.EventSocket && !v.isL7() &&
				slices.ContainsFunc(masks, func(mask uint8) bool { return v.tcpFlags&mask == mask })
		})
	}
	if wanted := ff.GetIpVersion(); wanted != nil {
		c.add(func(v *view) bool { return slices.Contains(wanted, v.ipVersion()) })
	}
	if wanted := ff.GetSourceIpXlated(); wanted != nil {
		match, err := addresses(wanted)
		c.try("source_ip_xlated", func(v *view) bool { return match(unpackAddress(v.translated)) }, err)
	}
	if wanted := ff.GetUuid(); len(wanted) > 0 {
		c.add(func(v *view) bool { return slices.Contains(wanted, v.store.uuid(v.sequence)) })
	}
	if wanted := ff.GetInterface(); len(wanted) > 0 {
		c.add(func(v *view) bool {
			if v.eventType != datapath.EventTrace || v.interfaceIndex == 0 {
				return false
			}
			return slices.ContainsFunc(wanted, func(f *flowpb.NetworkInterface) bool {
				return (f.GetIndex() == 0 || f.GetIndex() == v.interfaceIndex) &&
					(f.GetName() == "" || f.GetName() == v.store.options.Resolver.InterfaceName(v.interfaceIndex))
			})
		})
	}
}

// node adds the conditions on the node, which are the same for all of its flows.
func (c *compiler) node(ff *flowpb.FlowFilter) {
	if wanted := ff.GetNodeName(); wanted != nil {
		pattern, err := nodeNamePattern(wanted)
		c.try("node_name", func(v *view) bool { return pattern.MatchString(v.store.AbsoluteNodeName()) }, err)
	}
	if wanted := ff.GetNodeLabels(); wanted != nil {
		// Flows carry no node labels here, so that only selectors which are true of nothing can match.
		match, err := labelSelectors(wanted)
		c.try("node_labels", func(*view) bool { return match(nil) }, err)
	}
}

// names compiles "namespace/prefix", "namespace/" and "prefix" (namespace default), as Hubble reads them.
func names(patterns []string) (func(namespace, name string) bool, error) {
	type pattern struct{ namespace, prefix string }
	var wanted []pattern
	for _, text := range patterns {
		if text == "" {
			return nil, fmt.Errorf("a name must not be empty; use \"namespace/name\", \"namespace/\" or \"name\"")
		}
		parts := strings.Split(text, "/")
		if len(parts) == 1 {
			parts = []string{"default", text}
		}
		wanted = append(wanted, pattern{parts[0], parts[1]})
	}
	return func(namespace, name string) bool {
		if namespace == "" && name == "" {
			return false
		}
		return slices.ContainsFunc(wanted, func(p pattern) bool {
			return (p.prefix == "" || strings.HasPrefix(name, p.prefix)) && (p.namespace == "" || p.namespace == namespace)
		})
	}, nil
}

func addresses(texts []string) (func(netip.Addr) bool, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		if strings.Contains(text, "/") {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("invalid IP prefix %q: %w", text, err)
			}
			prefixes = append(prefixes, prefix)
			continue
		}
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("invalid IP address %q: %w", text, err)
		}
		prefixes = append(prefixes, netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()))
	}
	return func(a netip.Addr) bool {
		return a.IsValid() && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}, nil
}

func ports(texts []string) ([]uint16, error) {
	var wanted []uint16
	for _, text := range texts {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("invalid port %q: a number from 0 to 65535 is expected", text)
		}
		wanted = append(wanted, uint16(port))
	}
	return wanted, nil
}

func protocols(texts []string) (predicate, error) {
	var wanted []uint8
	http, dns := false, false
	for _, text := range texts {
		switch strings.ToLower(text) {
		case "icmp":
			wanted = append(wanted, protocolICMP, protocolICMPv6)
		case "icmpv4":
			wanted = append(wanted, protocolICMP)
		case "icmpv6":
			wanted = append(wanted, protocolICMPv6)
		case "tcp":
			wanted = append(wanted, protocolTCP)
		case "udp":
			wanted = append(wanted, protocolUDP)
		case "sctp":
			wanted = append(wanted, protocolSCTP)
		case "http":
			http = true
		case "dns":
			dns = true
		case "vrrp", "igmp":
			// Known to Hubble, never seen here.
		default:
			return nil, fmt.Errorf("unknown protocol: %q", text)
		}
	}
	return func(v *view) bool {
		return slices.Contains(wanted, v.protocol) || v.l7 != nil && (http && v.l7.HTTP != nil || dns && v.l7.DNS != nil)
	}, nil
}

// flagMask is the header byte with the flags that are asked for; all of them must be set. NS lies in another byte, which
// events do not carry.
func flagMask(f *flowpb.TCPFlags) uint8 {
	var mask uint8
	for bit, set := range map[uint8]bool{
		0x01: f.GetFIN(), 0x02: f.GetSYN(), 0x04: f.GetRST(), 0x08: f.GetPSH(),
		0x10: f.GetACK(), 0x20: f.GetURG(), 0x40: f.GetECE(), 0x80: f.GetCWR(),
	} {
		if set {
			mask |= bit
		}
	}
	return mask
}

// nodeNamePattern compiles "[cluster/]node" patterns with * as Hubble does; an empty side matches everything.
func nodeNamePattern(patterns []string) (*regexp.Regexp, error) {
	const any = `[-0-9_a-z]+(?:\.[-0-9_a-z]+)*`
	var alternatives []string
	for _, text := range patterns {
		parts := strings.Split(text, "/")
		if text == "" || len(parts) > 2 {
			return nil, fmt.Errorf("invalid node name pattern %q: \"node\", \"cluster/node\" or \"cluster/\" is expected", text)
		}
		if len(parts) == 1 {
			parts = []string{"", text}
		}
		var sides []string
		for _, part := range parts {
			part = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(part), "."))
			switch {
			case part == "":
				sides = append(sides, any)
			case strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-_.*") != "":
				return nil, fmt.Errorf("invalid node name pattern %q: letters, digits, '-', '_', '.' and '*' are expected", text)
			default:
				sides = append(sides, strings.ReplaceAll(regexp.QuoteMeta(part), `\*`, `[-.0-9a-z]*`))
			}
		}
		alternatives = append(alternatives, strings.Join(sides, "/"))
	}
	return regexp.Compile(`\A(?:` + strings.Join(alternatives, "|") + `)\z`)
}
