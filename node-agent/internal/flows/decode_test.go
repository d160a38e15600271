package flows_test

import (
	"net/netip"
	"regexp"
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows/flowtest"
)

const (
	tiefighterJSON = `{"ID":12,"identity":4002,"cluster_name":"default","namespace":"default","pod_name":"tiefighter",
		"labels":["k8s:class=tiefighter","k8s:io.kubernetes.pod.namespace=default","k8s:org=empire"]}`
	deathstarJSON = `{"ID":11,"identity":4001,"cluster_name":"default","namespace":"default","pod_name":"deathstar-6c94",
		"labels":["k8s:class=deathstar","k8s:io.kubernetes.pod.namespace=default","k8s:org=empire"],
		"workloads":[{"name":"deathstar","kind":"Deployment"}]}`
	xwingJSON = `{"identity":4003,"cluster_name":"default","namespace":"rebels","pod_name":"xwing",
		"labels":["k8s:class=xwing","k8s:io.kubernetes.pod.namespace=rebels","k8s:org=alliance"]}`
	rule1JSON = `[{"name":"rule1","namespace":"default","kind":"CiliumNetworkPolicy","revision":"3",
		"labels":["k8s:io.cilium.k8s.policy.name=rule1"]}]`
	commonJSON = `"time":"2026-05-01T12:00:00Z","node_name":"default/node1",
		"emitter":{"name":"fairlead-agent","version":"0.1.0-test"},`
)

// Every kind of event decodes to the flow that Hubble would make of it.
func TestDecode(t *testing.T) {
	ping := flowtest.Delivered(start, 0, 0)
	ping.Protocol, ping.ICMPType, ping.SourcePort, ping.DestPort = 1, 8, 0, 0
	denied := flowtest.Denied(start, 4242)
	byRule := denied[0]
	byRule.Rule, byRule.MatchType = flowtest.DenyRule, 1
	socket := flowtest.Connected(start)
	back := socket[1]
	back.SubType = 4
	overlay := flowtest.Delivered(start, 5555, 0x10)
	overlay.SubType, overlay.Endpoint, overlay.Interface = 4, flowtest.TiefighterID, 0
	overlay.Destination, overlay.DestIdentity = flowtest.Xwing, flowtest.AllianceIdentity
	overlay.TraceReason, overlay.TunnelRemote, overlay.TunnelVNI = 2, flowtest.Node2, flowtest.TieIdentity
	world := flowtest.Delivered(start, 5555, 0x02)
	world.SubType, world.Endpoint, world.Interface = 3, flowtest.TiefighterID, 0
	world.Destination, world.DestIdentity, world.SourceTranslated = flowtest.World, 2, flowtest.Node1
	world.SourceMAC, world.DestMAC = [6]byte{}, [6]byte{}
	v6 := datapath.Event{
		Time: start, Type: datapath.EventDrop, SubType: 181, Protocol: 17, Source: netip.MustParseAddr("fd00::1"),
		Destination: netip.MustParseAddr("fd00::2"), SourcePort: 53, DestPort: 53,
	}
	tcp := `"IP":{"source":"10.0.1.20","destination":"10.0.1.10","ipVersion":"IPv4"},"Type":"L3_L4",
		"source":` + tiefighterJSON + `,"destination":` + deathstarJSON + `,
		"ethernet":{"source":"02:00:00:00:00:01","destination":"02:00:00:00:00:02"},`
	fromXwing := `"IP":{"source":"10.0.2.30","destination":"10.0.1.10","ipVersion":"IPv4"},"Type":"L3_L4",
		"source":` + xwingJSON + `,"destination":` + deathstarJSON + `,"verdict":"DROPPED","Summary":"TCP Flags: SYN",
		"l4":{"TCP":{"source_port":4242,"destination_port":80,"flags":{"SYN":true}}},"traffic_direction":"INGRESS",`
	for _, test := range []struct {
		name  string
		event datapath.Event
		want  string
	}{
		{"trace to endpoint", flowtest.Delivered(start, 4000, 0x02), tcp + `"verdict":"FORWARDED",
			"l4":{"TCP":{"source_port":4000,"destination_port":80,"flags":{"SYN":true}}},
			"event_type":{"type":4},"traffic_direction":"INGRESS","trace_observation_point":"TO_ENDPOINT",
			"trace_reason":"NEW","is_reply":false,"interface":{"index":5,"name":"lxc5"},"Summary":"TCP Flags: SYN"`},
		{"ping", ping, tcp + `"verdict":"FORWARDED","l4":{"ICMPv4":{"type":8}},
			"event_type":{"type":4},"traffic_direction":"INGRESS","trace_observation_point":"TO_ENDPOINT",
			"trace_reason":"NEW","is_reply":false,"interface":{"index":5,"name":"lxc5"},"Summary":"ICMPv4 EchoRequest"`},
		{"reply", flowtest.Answered(start, 4000), `"IP":{"source":"10.0.1.10","destination":"10.0.1.20","ipVersion":"IPv4"},
			"Type":"L3_L4","source":` + deathstarJSON + `,"destination":` + tiefighterJSON + `,"verdict":"FORWARDED",
			"l4":{"TCP":{"source_port":80,"destination_port":4000,"flags":{"SYN":true,"ACK":true}}},
			"event_type":{"type":4},"traffic_direction":"EGRESS","trace_observation_point":"TO_ENDPOINT",
			"trace_reason":"REPLY","is_reply":true,"reply":true,"Summary":"TCP Flags: SYN, ACK"`},
		{"allowed", flowtest.Allowed(start, 4000), tcp + `"verdict":"FORWARDED",
			"l4":{"TCP":{"source_port":4000,"destination_port":80,"flags":{"SYN":true}}},
			"event_type":{"type":5},"traffic_direction":"INGRESS","policy_match_type":2,"is_reply":false,
			"ingress_allowed_by":` + rule1JSON + `,"Summary":"TCP Flags: SYN"`},
		{"default deny, verdict", denied[0], fromXwing + `"event_type":{"type":5},
			"drop_reason":133,"drop_reason_desc":"POLICY_DENIED","ingress_denied_by":` + rule1JSON},
		{"default deny, drop", denied[1], fromXwing + `"event_type":{"type":1,"sub_type":133},
			"drop_reason":133,"drop_reason_desc":"POLICY_DENIED","ingress_denied_by":` + rule1JSON},
		{"deny rule", byRule, fromXwing + `"event_type":{"type":5},"policy_match_type":1,
			"drop_reason":181,"drop_reason_desc":"POLICY_DENY","ingress_denied_by":
			[{"name":"no-rebels","kind":"CiliumClusterwideNetworkPolicy","revision":"4"}]`},
		{"service before translation", socket[0], `"IP":{"source":"10.0.1.20","destination":"10.96.0.77","ipVersion":"IPv4"},
			"Type":"SOCK","source":` + tiefighterJSON + `,
			"destination":{"identity":2,"labels":["reserved:world"]},"destination_service":{"name":"deathstar","namespace":"default"},
			"verdict":"TRACED","l4":{"TCP":{"destination_port":80}},"event_type":{"type":7,"sub_type":1},
			"sock_xlate_point":"SOCK_XLATE_POINT_PRE_DIRECTION_FWD","socket_cookie":"99","cgroup_id":"1234","Summary":"TCP"`},
		{"reverse translation is turned round", back, `"IP":{"source":"10.0.1.10","destination":"10.0.1.20","ipVersion":"IPv4"},
			"Type":"SOCK","source":` + deathstarJSON + `,"destination":` + tiefighterJSON + `,
			"verdict":"TRANSLATED","l4":{"TCP":{"source_port":80}},"event_type":{"type":7,"sub_type":4},
			"sock_xlate_point":"SOCK_XLATE_POINT_POST_DIRECTION_REV","socket_cookie":"99","cgroup_id":"1234","Summary":"TCP"`},
		{"to overlay", overlay, `"IP":{"source":"10.0.1.20","destination":"10.0.2.30","ipVersion":"IPv4"},"Type":"L3_L4",
			"ethernet":{"source":"02:00:00:00:00:01","destination":"02:00:00:00:00:02"},
			"source":` + tiefighterJSON + `,"destination":` + xwingJSON + `,"verdict":"FORWARDED",
			"l4":{"TCP":{"source_port":5555,"destination_port":80,"flags":{"ACK":true}}},
			"event_type":{"type":4,"sub_type":4},"traffic_direction":"EGRESS","trace_observation_point":"TO_OVERLAY",
			"trace_reason":"ESTABLISHED","is_reply":false,"Summary":"TCP Flags: ACK",
			"tunnel":{"protocol":"VXLAN","vni":4002,"IP":{"source":"172.18.0.2","destination":"172.18.0.3","ipVersion":"IPv4"},
			"l4":{"UDP":{"destination_port":8472}}}`},
		{"masqueraded to the world", world, `"Type":"L3_L4",
			"IP":{"source":"10.0.1.20","destination":"192.0.2.7","ipVersion":"IPv4","source_xlated":"172.18.0.2"},
			"source":` + tiefighterJSON + `,"destination":{"identity":2,"labels":["reserved:world"]},"verdict":"FORWARDED",
			"l4":{"TCP":{"source_port":5555,"destination_port":80,"flags":{"SYN":true}}},
			"event_type":{"type":4,"sub_type":3},"traffic_direction":"EGRESS","trace_observation_point":"TO_STACK",
			"trace_reason":"NEW","is_reply":false,"Summary":"TCP Flags: SYN"`},
		{"IPv6 drop without an endpoint", v6, `"IP":{"source":"fd00::1","destination":"fd00::2","ipVersion":"IPv6"},
			"Type":"L3_L4","source":{"identity":2,"labels":["reserved:world"]},
			"destination":{"identity":2,"labels":["reserved:world"]},"verdict":"DROPPED","drop_reason":181,
			"drop_reason_desc":"POLICY_DENY","l4":{"UDP":{"source_port":53,"destination_port":53}},
			"event_type":{"type":1,"sub_type":181},"Summary":"UDP"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := flowtest.NewStore(255)
			store.Ingest(test.event)
			all, _ := query(t, store, &observerpb.GetFlowsRequest{})
			got := all[0]
			if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(got.GetUuid()) {
				t.Errorf("uuid %q", got.GetUuid())
			}
			got.Uuid = ""
			want := &flowpb.Flow{}
			if err := protojson.Unmarshal([]byte("{"+commonJSON+test.want+"}"), want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, want) {
				t.Errorf("got  %s\nwant %s", protojson.Format(got), protojson.Format(want))
			}
		})
	}
}
