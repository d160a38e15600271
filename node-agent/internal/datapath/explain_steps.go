package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// stepBytes is the size of struct step in bpf/lib/steps.h.
const stepBytes = 216

// rawStep mirrors struct step.
type rawStep struct {
	Kind, What, Found, File uint8
	Line, Pad               uint16
	Result                  int32
	Number                  [2]uint32
	Port                    [2]big16
	Address                 [2]wireAddress
	Key                     [48]byte
	Value                   [112]byte
}

const (
	stepLookup = iota + 1
	stepRewrite
	stepEncap
	stepRoute
	stepRedirect
	stepProxy
	stepDecap
	stepNAT
	stepSocket
	stepPrefilter
)

const (
	redirectDevice = iota
	redirectPeer
	redirectNeighbour
)

// read fills a layout out of raw bytes of the kernel, which has the machine's byte order.
func read[T any](raw []byte) T {
	var out T
	// The layouts hold numbers and arrays of a fixed size only, so nothing can fail.
	_ = binary.Read(bytes.NewReader(raw), binary.NativeEndian, &out)
	return out
}

// place is an address with a port, or the address alone where there is no port.
func place(a wireAddress, p big16) string {
	if p == (big16{}) {
		return fromWire(a).String()
	}
	return netip.AddrPortFrom(fromWire(a), fromPort(p)).String()
}

func protocolText(p uint8) string {
	if name, ok := map[uint8]string{0: "any protocol", 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}[p]; ok {
		return name
	}
	return fmt.Sprintf("protocol %d", p)
}

// lookups say how to read a map's key and value; bpf/lib/steps.h has the numbers.
var lookups = map[uint8]func(*rawStep) ExplainStep{
	1: func(r *rawStep) ExplainStep {
		key, v := read[wireAddress](r.Key[:]), read[endpointLayout](r.Value[:])
		s := ExplainStep{Kind: "endpoint", Map: "endpoints", Key: fromWire(key).String(), Text: fmt.Sprintf("%s is no pod of this node", fromWire(key))}
		if r.Found != 0 {
			s.Identity = v.Identity
			s.Value = fmt.Sprintf("endpoint %d, identity %d, interface %d", v.ID, v.Identity, v.Ifindex)
			s.Text = fmt.Sprintf("%s is endpoint %d of this node", fromWire(key), v.ID)
		}
		return s
	},
	2: func(r *rawStep) ExplainStep {
		key, v := read[ipcacheKeyLayout](r.Key[:]), read[ipcacheValueLayout](r.Value[:])
		s := ExplainStep{Kind: "identity", Map: "ipcache", Key: fromWire(key.Address).String(), Text: fmt.Sprintf("nothing is known of %s: the world", fromWire(key.Address))}
		if r.Found != 0 {
			s.Identity = v.Identity
			s.Value, s.Text = fmt.Sprintf("identity %d", v.Identity), fmt.Sprintf("%s has identity %d", fromWire(key.Address), v.Identity)
			if node := fromWire4(v.Tunnel); node.IsValid() {
				s.Value, s.Text = s.Value+", node "+node.String(), s.Text+", on node "+node.String()
			}
		}
		return s
	},
	3: policyStep,
	4: connectionStep,
	5: func(r *rawStep) ExplainStep {
		key, v := read[serviceKeyLayout](r.Key[:]), read[serviceLayout](r.Value[:])
		s := ExplainStep{Kind: "service", Map: "services", Key: protocolText(key.Protocol) + " " + place(key.Address, key.Port), Text: place(key.Address, key.Port) + " is no service's address"}
		if r.Found != 0 {
			s.Value = fmt.Sprintf("service %d, backends for clients inside %d, outside %d", v.ID, v.View[0].Count, v.View[1].Count)
			s.Text = fmt.Sprintf("%s is a service's address", place(key.Address, key.Port))
		}
		return s
	},
	6: func(r *rawStep) ExplainStep {
		s := ExplainStep{Kind: "backend", Map: "backends", Key: keyNumbers(r.Key[:4]), Text: "no backend has this number (any more)"}
		if r.Found != 0 {
			v := read[backendLayout](r.Value[:])
			s.Value = place(v.Address, v.Port)
			s.Text = "backend " + s.Value + " was picked"
		}
		return s
	},
	7: func(r *rawStep) ExplainStep {
		s := ExplainStep{Kind: "affinity", Map: "affinity", Key: keyNumbers(r.Key[16:24]), Text: "the client has no backend from before"}
		if r.Found != 0 {
			s.Value, s.Text = "a backend from before", "the client has a backend from before"
		}
		return s
	},
	8: func(r *rawStep) ExplainStep {
		s := ExplainStep{Kind: "nat", Map: "nat", Text: "no mapping"}
		if r.Found != 0 {
			s.Value, s.Text = "a mapping", "a mapping exists"
		}
		return s
	},
	9: func(r *rawStep) ExplainStep {
		s := ExplainStep{Kind: "identity", Map: "tunnels", Key: keyNumbers(r.Key[:4]), Text: "no node has this number"}
		if r.Found != 0 {
			s.Value = fromWire(read[wireAddress](r.Value[:])).String()
			s.Text = "the tunnel leads to node " + s.Value
		}
		return s
	},
	10: func(r *rawStep) ExplainStep {
		s := connectionStep(r)
		s.Map = "openings"
		return s
	},
	11: func(r *rawStep) ExplainStep {
		address := fromWire(read[ipcacheKeyLayout](r.Key[:]).Address)
		s := ExplainStep{Kind: "policy", Map: "blocks", Key: address.String(), Text: fmt.Sprintf("no ipBlock contains %s", address)}
		if number := binary.NativeEndian.Uint32(r.Value[:4]); number != 0 {
			s.Identity = number
			s.Value = fmt.Sprintf("identity %d", s.Identity)
			s.Text = fmt.Sprintf("%s is in an ipBlock, whose lines have identity %d", address, s.Identity)
		}
		return s
	},
	12: rateStep,
}

// keyNumbers is a key of 32-bit numbers.
func keyNumbers(raw []byte) string {
	var out []byte
	for i := 0; i+4 <= len(raw); i += 4 {
		if i > 0 {
			out = append(out, ' ')
		}
		out = fmt.Append(out, binary.NativeEndian.Uint32(raw[i:]))
	}
	return string(out)
}

func policyStep(r *rawStep) ExplainStep {
	key, v := read[policyKeyLayout](r.Key[:]), read[policyValueLayout](r.Value[:])
	peer := fmt.Sprintf("identity %d", key.Identity)
	if key.Identity == 0 {
		peer = "any identity"
	}
	s := ExplainStep{
		Kind: "policy", Map: "policy", Identity: key.Identity, Rule: v.Rule,
		Key:  fmt.Sprintf("endpoint %d %s, %s, %s %d", key.Endpoint, directionText(Direction(key.Direction)), peer, protocolText(key.Protocol), fromPort(key.Port)),
		Text: fmt.Sprintf("%s: no line for %s", directionText(Direction(key.Direction)), peer),
	}
	if r.Found == 0 {
		return s
	}
	verdict := "allows"
	if v.Deny != 0 {
		verdict = "denies"
	}
	s.Value = fmt.Sprintf("%s, rule %d, %d bits", verdict, v.Rule, v.PrefixLen)
	if port := fromPort(v.ProxyPort); port != 0 {
		s.Value += fmt.Sprintf(", proxy %d", port)
	}
	s.Text = fmt.Sprintf("%s: a line for %s %s", directionText(Direction(key.Direction)), peer, verdict)
	return s
}

func directionText(d Direction) string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

func connectionStep(r *rawStep) ExplainStep {
	key, v := read[connectionKeyLayout](r.Key[:]), read[connectionLayout](r.Value[:])
	s := ExplainStep{
		Kind: "connection", Map: "connections", Text: "a new connection",
		Key: fmt.Sprintf("endpoint %d, %s %s ↔ %s", key.Endpoint, protocolText(key.Protocol), place(key.Local, key.LocalPort), place(key.Remote, key.RemotePort)),
	}
	if r.Found == 0 {
		return s
	}
	s.Rule, s.Identity = v.Rule, v.Peer
	ends := "ended"
	if left := int64(v.Expires - monotonic()); left > 0 {
		ends = fmt.Sprintf("kept for %ds more", left/int64(time.Second))
	}
	s.Value = fmt.Sprintf("opened %s, %s, flags [%s], revision %d", directionText(Direction(v.Initiator)), ends, connectionFlags(v.Flags), v.Revision)
	s.Text = "a connection that exists"
	if v.Flags&connectionService != 0 {
		s.Text = "a connection to a service whose backend is " + place(v.Translated, v.TranslatedPort)
	}
	return s
}

// decodeStep gives the step of a record, or false for what is none.
func decodeStep(raw []byte) (r rawStep, ok bool) {
	if len(raw) != stepBytes {
		return r, false
	}
	return read[rawStep](raw), true
}

// step turns a raw step into one for people; the hook is the caller's.
func (r *rawStep) step() ExplainStep {
	s := ExplainStep{}
	from, to := place(r.Address[0], r.Port[0]), place(r.Address[1], r.Port[1])
	switch r.Kind {
	case stepLookup:
		if describe := lookups[r.What]; describe != nil {
			s = describe(r)
		}
		s.Found = r.Found != 0
	case stepRewrite:
		side := "destination"
		if r.What == 1 {
			side = "source"
		}
		s = ExplainStep{Kind: "rewrite", Rewrite: fmt.Sprintf("%s %s → %s", side, from, to), Text: fmt.Sprintf("the %s %s becomes %s", side, from, to)}
	case stepEncap:
		how := "put on here"
		if r.What == 1 {
			how = "by the tunnel device"
		}
		s = ExplainStep{Kind: "encapsulation", Identity: r.Number[0], Text: fmt.Sprintf("into the tunnel to node %s, identity %d, headers %s", from, r.Number[0], how)}
	case stepRoute:
		s = ExplainStep{Kind: "route", Map: "routing table", Key: from, Value: routeText(r), Text: "the routing table: " + routeText(r)}
	case stepRedirect:
		s = ExplainStep{Kind: "redirect", Verdict: "redirected", Text: fmt.Sprintf("redirected to interface %d", r.Number[0])}
		if r.What == redirectPeer {
			s.Text = fmt.Sprintf("straight into the pod behind interface %d", r.Number[0])
		}
	case stepProxy:
		s = ExplainStep{Kind: "proxy", Rule: r.Number[0], Verdict: "redirected", Text: fmt.Sprintf("to the agent's proxy at port %d", fromPort(r.Port[0]))}
	case stepDecap:
		s = ExplainStep{Kind: "decapsulation", Identity: r.Number[0], Text: fmt.Sprintf("out of the tunnel from node %s, identity %d", from, r.Number[0])}
	case stepNAT:
		table := natTables[0]
		if r.Number[0] != 0 {
			table = natTables[1]
		}
		if r.What == natIn {
			s = ExplainStep{Kind: "nat", Map: table, Found: true, Rewrite: fmt.Sprintf("destination %s → %s", from, to), Text: fmt.Sprintf("an answer to what was masqueraded as %s: for %s", from, to)}
			break
		}
		how := "a free port is taken"
		if r.Found != 0 {
			how = "the connection has its port already"
		}
		s = ExplainStep{Kind: "nat", Map: table, Found: r.Found != 0, Rewrite: fmt.Sprintf("source %s → %s", from, to), Text: fmt.Sprintf("masqueraded as %s: %s", to, how)}
	case stepSocket:
		s = ExplainStep{Kind: "socket", Text: "the socket keeps its destination"}
	}
	s.Line, s.File = r.Line, r.File
	return s
}

// routeText is a result of bpf_fib_lookup in words.
func routeText(r *rawStep) string {
	names := map[int32]string{1: "blackhole", 2: "unreachable", 3: "prohibited", 4: "not forwarded here", 5: "forwarding is off", 6: "needs encapsulation", 8: "has to be fragmented", 9: "no source address"}
	if r.Result == 0 || r.Result == 7 {
		text := fmt.Sprintf("by interface %d, next hop %s", r.Number[0], fromWire(r.Address[1]))
		if r.Result == 7 {
			text += ", whose hardware address is not known yet"
		}
		return text
	}
	if r.Result < 0 {
		return fmt.Sprintf("error %d", -r.Result)
	}
	return names[r.Result] + ", left to the host's stack"
}

// eventStep turns an event that a program would have sent into a step.
func eventStep(e Event) ExplainStep {
	s := ExplainStep{Rule: e.Rule, File: e.File, Line: e.Line}
	switch e.Type {
	case EventDrop:
		s.Kind, s.Verdict, s.Reason, s.Text = "verdict", "dropped", e.SubType, "dropped"
	case EventPolicyVerdict:
		s.Kind, s.Text = "policy", fmt.Sprintf("%s is allowed", directionText(e.Direction))
		if e.Denied {
			s.Text = fmt.Sprintf("%s is denied", directionText(e.Direction))
		}
		if e.Rule == 0 {
			s.Text += " by default"
		}
	case EventTrace:
		points := map[uint8]string{0: "to the pod", 1: "to the proxy", 2: "to the host", 3: "to the host's stack", 4: "into the tunnel", 11: "to the network"}
		s.Kind, s.Verdict, s.Text = "event", "forwarded", points[e.SubType]
	default:
		s.Kind, s.Text = "event", fmt.Sprintf("event %d", e.Type)
	}
	return s
}
