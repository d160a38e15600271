package flows_test

import (
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"

	"fairlead.dev/node-agent/internal/flows/flowtest"
)

// TestFilters: which of the events match. The ring holds, in this order: d(elivered), r(eply), a(llowed), x (denied
// verdict), X (drop), s (socket before), S (socket after), w (to the world, masqueraded).
func TestFilters(t *testing.T) {
	store := flowtest.NewStore(255)
	world := flowtest.Delivered(start, 5555, 0x12)
	world.SubType, world.Endpoint, world.Interface = 3, flowtest.TiefighterID, 0
	world.Destination, world.DestIdentity, world.SourceTranslated = flowtest.World, 2, flowtest.Node1
	store.Ingest(flowtest.Delivered(start, 4000, 0x02))
	store.Ingest(flowtest.Answered(start, 4000))
	store.Ingest(flowtest.Allowed(start, 4000))
	for _, e := range append(flowtest.Denied(start, 4242), flowtest.Connected(start)...) {
		store.Ingest(e)
	}
	store.Ingest(world)
	const letters = "draxXsSw"
	everything, _ := query(t, store, &observerpb.GetFlowsRequest{})
	letterOf := map[string]byte{}
	for i, f := range everything {
		letterOf[f.GetUuid()] = letters[i]
	}

	type filter = flowpb.FlowFilter
	for _, test := range []struct {
		name string
		want string
		f    *filter
	}{
		{"nothing asked", letters, &filter{}},
		{"pod prefix", "daxXS", &filter{DestinationPod: []string{"deathstar"}}},
		{"pod with namespace", "xX", &filter{SourcePod: []string{"rebels/xw"}}},
		{"namespace", "xX", &filter{SourcePod: []string{"rebels/"}}},
		{"pod of another namespace", "", &filter{SourcePod: []string{"xwing"}}},
		{"any namespace", "xX", &filter{SourcePod: []string{"/xwing"}}},
		{"label", "xX", &filter{SourceLabel: []string{"org=alliance"}}},
		{"label with source", "xX", &filter{SourceLabel: []string{"k8s:org=alliance"}}},
		{"label of another source", "", &filter{SourceLabel: []string{"reserved:org=alliance"}}},
		{"label set", "draxXsSw", &filter{SourceLabel: []string{"org in (alliance, empire),class"}}},
		{"label absent", "sw", &filter{DestinationLabel: []string{"!org"}}},
		{"label not equal", "draxXS", &filter{DestinationLabel: []string{"org!=alliance,class"}}},
		{"reserved label", "sw", &filter{DestinationLabel: []string{"reserved:world"}}},
		{"labels are alternatives", "draxXsSw", &filter{SourceLabel: []string{"org=alliance", "org=empire"}}},
		{"address", "xX", &filter{SourceIp: []string{"10.0.2.30"}}},
		{"prefix", "draxXS", &filter{DestinationIp: []string{"10.0.0.0/16"}}},
		{"translated", "w", &filter{SourceIpXlated: []string{"172.18.0.0/24"}}},
		{"port", "r", &filter{SourcePort: []string{"80"}}},
		{"identity", "sw", &filter{DestinationIdentity: []uint32{2}}},
		{"workload", "r", &filter{SourceWorkload: []*flowpb.Workload{{Kind: "Deployment"}}}},
		{"workload name", "", &filter{SourceWorkload: []*flowpb.Workload{{Kind: "Deployment", Name: "x"}}}},
		{"service", "s", &filter{DestinationService: []string{"default/death"}}},
		{"cluster", "draxXS", &filter{DestinationClusterName: []string{"default"}}},
		{"verdict", "xX", &filter{Verdict: []flowpb.Verdict{flowpb.Verdict_DROPPED}}},
		{"traced", "s", &filter{Verdict: []flowpb.Verdict{flowpb.Verdict_TRACED}}},
		{"drop reason", "xX", &filter{DropReasonDesc: []flowpb.DropReason{flowpb.DropReason_POLICY_DENIED}}},
		{"event type", "ax", &filter{EventType: []*flowpb.EventTypeFilter{{Type: 5}}}},
		{"event sub type", "dr", &filter{EventType: []*flowpb.EventTypeFilter{{Type: 4, MatchSubType: true}}}},
		{"reply", "r", &filter{Reply: []bool{true}}},
		{"no reply includes drops", "daxXw", &filter{Reply: []bool{false}}},
		{"protocol", "draxXsSw", &filter{Protocol: []string{"TCP", "icmp"}}},
		{"other protocol", "", &filter{Protocol: []string{"udp", "http"}}},
		{"flags must all be set", "rw", &filter{TcpFlags: []*flowpb.TCPFlags{{SYN: true, ACK: true}}}},
		{"flag NS", "", &filter{TcpFlags: []*flowpb.TCPFlags{{NS: true}}}},
		{"IPv4", letters, &filter{IpVersion: []flowpb.IPVersion{flowpb.IPVersion_IPv4}}},
		{"IPv6", "", &filter{IpVersion: []flowpb.IPVersion{flowpb.IPVersion_IPv6}}},
		{"node", letters, &filter{NodeName: []string{"node*"}}},
		{"cluster and node", letters, &filter{NodeName: []string{"default/node1"}}},
		{"any node of the cluster", letters, &filter{NodeName: []string{"default/"}}},
		{"other node", "", &filter{NodeName: []string{"other/node1", "node2"}}},
		{"direction", "rw", &filter{TrafficDirection: []flowpb.TrafficDirection{flowpb.TrafficDirection_EGRESS}}},
		{"interface", "d", &filter{Interface: []*flowpb.NetworkInterface{{Name: "lxc5"}}}},
		{"uuid", "X", &filter{Uuid: []string{everything[4].GetUuid()}}},
		{"encrypted", "", &filter{Encrypted: []bool{true}}},
		{"HTTP matches no L4 flow", "", &filter{HttpMethod: []string{"GET"}}},
		{"names match no flow without DNS", "", &filter{DestinationFqdn: []string{"*.example.org"}}},
		{"fields must all match", "X", &filter{
			SourcePod: []string{"rebels/"}, EventType: []*flowpb.EventTypeFilter{{Type: 1}},
		}},
	} {
		for _, mode := range []struct {
			name    string
			request *observerpb.GetFlowsRequest
			inverse bool
		}{
			{"allow", &observerpb.GetFlowsRequest{Whitelist: []*filter{test.f}}, false},
			{"deny", &observerpb.GetFlowsRequest{Blacklist: []*filter{test.f}}, true},
		} {
			t.Run(test.name+"/"+mode.name, func(t *testing.T) {
				matched, _ := query(t, store, mode.request)
				in := map[byte]bool{}
				for _, f := range matched {
					in[letterOf[f.GetUuid()]] = true
				}
				var got []byte
				for i := range letters {
					if in[letters[i]] != mode.inverse {
						got = append(got, letters[i])
					}
				}
				if string(got) != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		}
	}
	both, _ := query(t, store, &observerpb.GetFlowsRequest{Whitelist: []*filter{
		{SourcePod: []string{"rebels/"}}, {Reply: []bool{true}},
	}})
	if len(both) != 3 {
		t.Errorf("two filters are alternatives: got %d flows, want 3", len(both))
	}
}
