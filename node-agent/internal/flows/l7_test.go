package flows_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/flows/flowtest"
)

func TestApplicationLayer(t *testing.T) {
	request := flowtest.Delivered(start, 4000, 0)
	request.Type, request.SubType, request.TraceReason, request.ReplyKnown = datapath.EventL7, 0, 0, true
	request.L7 = &datapath.L7{HTTP: &datapath.L7HTTP{Method: "POST", URL: "http://deathstar/v1/request-landing?x=1", Protocol: "HTTP/1.1", Headers: []string{"X-Rank", "admiral"}}}
	response := flowtest.Answered(start, 4000)
	response.Type, response.SubType, response.TraceReason, response.Reply, response.ReplyKnown, response.Direction = datapath.EventL7, 0, 0, true, true, datapath.Ingress
	response.L7 = &datapath.L7{Latency: 12 * time.Millisecond, HTTP: &datapath.L7HTTP{Code: 200, Method: "POST", URL: "http://deathstar/v1/request-landing", Protocol: "HTTP/1.1"}}
	denied := request
	denied.Endpoint = flowtest.DeathstarID
	denied.L7 = &datapath.L7{Verdict: datapath.L7Dropped, HTTP: &datapath.L7HTTP{Code: 403, Method: "PUT", URL: "http://deathstar/v1/exhaust-port", Protocol: "HTTP/1.1"}}
	answer := response
	answer.Protocol = 17
	answer.L7 = &datapath.L7{DNS: &datapath.L7DNS{Query: "www.example.org.", Types: []string{"A"}, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, TTL: 30}}
	store := flowtest.NewStore(255)
	for _, e := range []datapath.Event{request, response, denied, answer} {
		store.Ingest(e)
	}
	const letters = "qrxd"
	all, _ := query(t, store, &observerpb.GetFlowsRequest{})
	letterOf := map[string]string{}
	for i, f := range all {
		letterOf[f.GetUuid()] = letters[i : i+1]
		if f.GetType() != flowpb.FlowType_L7 || f.GetEventType().GetType() != 129 || f.GetTrafficDirection() != flowpb.TrafficDirection_INGRESS {
			t.Errorf("flow %d: %v", i, f)
		}
	}
	for i, want := range []string{"HTTP/1.1 POST http://deathstar/v1/request-landing?x=1", "HTTP/1.1 200 12ms (POST http://deathstar/v1/request-landing)",
		"HTTP/1.1 PUT http://deathstar/v1/exhaust-port", `DNS Answer "192.0.2.1" TTL: 30 (Query www.example.org. A)`} {
		if got := all[i].GetSummary(); got != want { //nolint:staticcheck // the hubble client prints it
			t.Errorf("summary %q, want %q", got, want)
		}
	}
	if f := all[1]; !f.GetIsReply().GetValue() || f.GetL7().GetType() != flowpb.L7FlowType_RESPONSE || f.GetL7().GetLatencyNs() != 12e6 || f.GetL7().GetHttp().GetCode() != 200 {
		t.Errorf("response %v", f)
	}
	if f := all[2]; f.GetVerdict() != flowpb.Verdict_DROPPED || f.GetDropReasonDesc() != flowpb.DropReason_POLICY_DENIED || len(f.GetIngressDeniedBy()) == 0 {
		t.Errorf("denied %v", f)
	}
	if f := all[0]; f.GetL7().GetHttp().GetHeaders()[0].GetValue() != "admiral" {
		t.Errorf("request %v", f)
	}
	for want, f := range map[string]*flowpb.FlowFilter{
		"qrx": {Protocol: []string{"http"}}, "d": {Protocol: []string{"dns"}}, "x": {HttpMethod: []string{"put"}}, "qr": {HttpPath: []string{"^/v1/request-landing$"}},
		"r": {HttpStatusCode: []string{"2+", "500"}}, "q": {HttpUrl: []string{`\?x=1$`}}, "": {HttpStatusCode: []string{"404"}},
	} {
		found, _ := query(t, store, &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{f}})
		var got strings.Builder
		for _, flow := range found {
			got.WriteString(letterOf[flow.GetUuid()])
		}
		if got.String() != want {
			t.Errorf("filter %v gave %q, want %q", f, got.String(), want)
		}
	}
	if found, _ := query(t, store, &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{HttpHeader: []*flowpb.HTTPHeader{{Key: "x-rank", Value: "admiral"}}}}}); len(found) != 1 {
		t.Errorf("by header: %d", len(found))
	}
	if found, _ := query(t, store, &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{DnsQuery: []string{"example.org"}}}}); len(found) != 1 {
		t.Errorf("by query: %d", len(found))
	}
}
