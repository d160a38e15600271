package api

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/internal/policies"
)

// explaining is an agent's API on a datapath that answers what the test says.
func explaining(t *testing.T, local bool, answer func(datapath.Trial) (datapath.Explanation, error)) *Service {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	dp := &datapathtest.Fake{}
	dp.SetExplain(answer)
	cache := ipcache.New(log)
	registry := identities.NewRegistry(nil, log)
	manager := policies.New(dp, cache, policies.ModeDefault, log)
	agent := &Agent{NodeName: "node1", Components: func() []Component { return nil }}
	agent.Parts.Store(&Parts{
		Datapath: dp, Registry: registry, Cache: cache, Policies: manager, Nodes: nodes.New("node1", dp, cache, t.TempDir(), log),
		Endpoints:  endpoints.New(endpoints.Options{Datapath: dp, Registry: registry, Policies: manager, Cache: cache, StateDirectory: t.TempDir(), Log: log}),
		ServerName: "node1.default.hubble-grpc.cilium.io", Announcer: &nodes.Announcer{Log: log},
	})
	return &Service{Agent: agent, Local: local}
}

func TestExplainRefusesWhatIsNoQuestion(t *testing.T) {
	never := func(datapath.Trial) (datapath.Explanation, error) {
		t.Error("a packet was tried")
		return datapath.Explanation{}, nil
	}
	for name, test := range map[string]struct {
		local   bool
		request *fairleadv1.ExplainRequest
		want    codes.Code
	}{
		"a protocol that there is not": {true, &fairleadv1.ExplainRequest{From: "a/b", To: "c/d", Port: 80, Protocol: "carrier-pigeon"}, codes.InvalidArgument},
		"no port":                      {true, &fairleadv1.ExplainRequest{From: "a/b", To: "c/d"}, codes.InvalidArgument},
		"a port beyond the last":       {true, &fairleadv1.ExplainRequest{From: "a/b", To: "c/d", Port: 70000}, codes.InvalidArgument},
		"a family that there is not":   {true, &fairleadv1.ExplainRequest{From: "a/b", To: "c/d", Port: 80, Family: "appletalk"}, codes.InvalidArgument},
		"a pod that nobody knows":      {true, &fairleadv1.ExplainRequest{From: "a/b", To: "c/d", Port: 80}, codes.NotFound},
		"a pod that is gone": {true, &fairleadv1.ExplainRequest{From: "a/b", To: "c/d", Port: 80,
			Arrival: &fairleadv1.ExplainArrival{Hops: 1}}, codes.NotFound},
		"a frame of somebody who is no agent": {false, &fairleadv1.ExplainRequest{Arrival: &fairleadv1.ExplainArrival{Frame: []byte{1}}}, codes.PermissionDenied},
		"a frame that goes round":             {true, &fairleadv1.ExplainRequest{Arrival: &fairleadv1.ExplainArrival{Frame: []byte{1}, Hops: 9}}, codes.ResourceExhausted},
	} {
		_, err := explaining(t, test.local, never).Explain(context.Background(), test.request)
		if status.Code(err) != test.want {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

func TestExplainPutsNamesToNumbers(t *testing.T) {
	s := explaining(t, true, func(trial datapath.Trial) (datapath.Explanation, error) {
		if string(trial.Frame) != "frame" {
			t.Errorf("tried %+v", trial)
		}
		return datapath.Explanation{Outcome: datapath.OutcomeDropped, Reason: 133, Steps: []datapath.ExplainStep{
			{Hook: "from_netdev", Kind: "identity", Map: "ipcache", Key: "10.0.0.1", Value: "identity 2", Identity: 2, Text: "10.0.0.1 has identity 2"},
			{Hook: "from_netdev", Kind: "verdict", Verdict: "dropped", Reason: 133, File: 3, Line: 42, Text: "dropped"},
		}}, nil
	})
	got, err := s.Explain(context.Background(), &fairleadv1.ExplainRequest{Arrival: &fairleadv1.ExplainArrival{Frame: []byte("frame"), Hops: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetVerdict() != "dropped" || got.GetDropReasonName() != "POLICY_DENIED" || !strings.Contains(got.GetSummary(), "node1") {
		t.Errorf("%v", got)
	}
	steps := got.GetSteps()
	if len(steps) != 2 || steps[0].GetNode() != "node1" || !strings.Contains(steps[0].GetText(), "world") || steps[1].GetSource() != "from_netdev.bpf.c:42" ||
		steps[1].GetDropReason() != 133 {
		t.Errorf("%v", steps)
	}
}

// A drop by the prefilter names the network and where it is configured, in the answer and in its step.
func TestExplainSaysWhoRefusesANetwork(t *testing.T) {
	network := netip.MustParsePrefix("198.51.100.0/24")
	s := explaining(t, true, func(datapath.Trial) (datapath.Explanation, error) {
		return datapath.Explanation{Outcome: datapath.OutcomeDropped, Reason: 181, Network: network, Steps: []datapath.ExplainStep{
			{Hook: "prefilter", Kind: "prefilter", Map: "refused4", Verdict: "dropped", Reason: 181, Network: network, Text: "198.51.100.7 is in the refused network"},
		}}, nil
	})
	s.Agent.Parts.Load().RefusedBy = func(n netip.Prefix) []string {
		if n != network {
			t.Errorf("asked about %s", n)
		}
		return []string{"xdpPrefilter.cidrs", "CiliumCIDRGroup bad"}
	}
	got, err := s.Explain(context.Background(), &fairleadv1.ExplainRequest{Arrival: &fairleadv1.ExplainArrival{Frame: []byte("frame"), Hops: 1}})
	if err != nil {
		t.Fatal(err)
	}
	const by = "by xdpPrefilter.cidrs and CiliumCIDRGroup bad"
	if want := "Dropped on node node1: POLICY_DENY, because the prefilter refuses 198.51.100.0/24, " + by + "."; got.GetVerdict() != "dropped" || got.GetSummary() != want {
		t.Errorf("%s, %q; want %q", got.GetVerdict(), got.GetSummary(), want)
	}
	if text := got.GetSteps()[0].GetText(); !strings.Contains(text, by) {
		t.Errorf("its step says %q", text)
	}
}

// A node that cannot be asked is part of the answer, and no error.
func TestExplainSaysWhichNodeDidNotAnswer(t *testing.T) {
	s := explaining(t, true, func(datapath.Trial) (datapath.Explanation, error) {
		return datapath.Explanation{Outcome: datapath.OutcomeOnward, Node: netip.MustParseAddr("192.0.2.9"), Frame: []byte("on"), Steps: []datapath.ExplainStep{{Hook: "from_netdev"}}}, nil
	})
	got, err := s.Explain(context.Background(), &fairleadv1.ExplainRequest{Arrival: &fairleadv1.ExplainArrival{Frame: []byte("frame")}})
	if err != nil || got.GetVerdict() != "unknown" || !strings.Contains(got.GetSummary(), "192.0.2.9") || len(got.GetSteps()) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// Of two families the sender's address decides, or IPv4 where it was named otherwise; never the order in which addresses are listed.
func TestExplainChoosesTheFamily(t *testing.T) {
	both := []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("::ffff:10.77.1.2")}
	for _, test := range []struct {
		from          string
		sender, there []netip.Addr
		want          string
	}{
		{"a/b", both, both, "::ffff:10.77.1.2"},
		{"10.77.1.9", both, both, "::ffff:10.77.1.2"},
		{"fd00::9", both, both, "fd00::2"},
		{"a/b", both, both[:1], "fd00::2"},
		{"a/b", both[:1], both, "fd00::2"},
		{"a/b", both[1:], both[:1], ""},
		{"10.77.1.9", both, both[:1], ""},
		{"fd00::9", both, both[1:], ""},
	} {
		x := explainer{families: familiesOf(test.from, test.sender)}
		got, err := x.choose("c/d", test.there)
		if test.want == "" {
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "c/d has no address of the sender's family") {
				t.Errorf("%+v: %s, %v", test, got, err)
			}
			continue
		}
		if err != nil || got.String() != test.want {
			t.Errorf("%+v: %s, %v", test, got, err)
		}
	}
}

// A family that is asked about is that of both ends, or the answer says which end has no address of it, what it has, and what to do.
func TestExplainAsksAboutAFamily(t *testing.T) {
	both := []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("::ffff:10.77.1.2")}
	six, four := both[:1], both[1:]
	for _, test := range []struct {
		asked, from, to string
		sender, there   []netip.Addr
		want            string
		says            []string
	}{
		{"ipv4", "a/b", "c/d", both, both, "::ffff:10.77.1.2", nil},
		{"ipv6", "a/b", "c/d", both, both, "fd00::2", nil},
		{"IPv6", "fd00::9", "c/d", both, both, "fd00::2", nil},
		{"ipv6", "a/b", "fd00::7", both, []netip.Addr{netip.MustParseAddr("fd00::7")}, "fd00::7", nil},
		{"", "a/b", "c/d", both, six, "fd00::2", nil},
		{"ipv6", "a/b", "c/d", four, both, "", []string{"sender a/b has no address of IPv6 (it has 10.77.1.2)", "ask about IPv4"}},
		{"ipv4", "a/b", "c/d", nil, both, "", []string{"sender a/b has no address of IPv4 (it has none)", "ask about IPv6"}},
		{"ipv6", "10.77.1.9", "c/d", both, both, "", []string{"sender 10.77.1.9 is an address of IPv4", "the question is about IPv6", "its address of IPv6"}},
		{"ipv4", "a/b", "c/d", both, six, "", []string{"receiver c/d has no address of IPv4 (it has fd00::2)", "ask about IPv6"}},
		{"ipv4", "a/b", "fd00::7", both, []netip.Addr{netip.MustParseAddr("fd00::7")}, "", []string{"receiver fd00::7 is an address of IPv6"}},
		{"ipx", "a/b", "c/d", both, both, "", []string{`"ipx" is no family`, "use ipv4 or ipv6"}},
	} {
		got, err := func() (netip.Addr, error) {
			asked, err := askedFamily(test.asked)
			if err != nil {
				return netip.Addr{}, err
			}
			families, err := familiesToAsk(asked, test.from, test.sender)
			if err != nil {
				return netip.Addr{}, err
			}
			return (&explainer{asked: asked, families: families}).choose(test.to, test.there)
		}()
		if test.says == nil && (err != nil || got.String() != test.want) {
			t.Errorf("%+v: %s, %v", test, got, err)
		}
		for _, part := range test.says {
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), part) {
				t.Errorf("%+v: %s, %v; want %q", test, got, err, part)
			}
		}
	}
}

// An answer says what it is about, so that whoever asked an agent that does not look at the family can tell.
func TestExplainSaysWhichFamilyItIsAbout(t *testing.T) {
	s := explaining(t, true, func(trial datapath.Trial) (datapath.Explanation, error) {
		return datapath.Explanation{Outcome: datapath.OutcomeLeaves, Device: "eth0"}, nil
	})
	p, directory := s.Agent.Parts.Load(), t.TempDir()
	four, six := netip.MustParseAddr("10.77.1.2"), netip.MustParseAddr("fd00::2")
	if err := p.Datapath.UpsertEndpoint(t.Context(), datapath.Endpoint{ID: 7, Interface: "fl-b", Addresses: []netip.Addr{four, six}}); err != nil {
		t.Fatal(err)
	}
	text := `{"id": 7, "namespace": "a", "podName": "b", "address": "10.77.1.2", "address6": "fd00::2", "link": {"Interface": "fl-b"}}`
	if err := os.WriteFile(filepath.Join(directory, "endpoint-7.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Endpoints = endpoints.New(endpoints.Options{Datapath: p.Datapath, Registry: p.Registry, Policies: p.Policies, Cache: p.Cache, StateDirectory: directory,
		RemoveLink: func(string) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	if err := p.Endpoints.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ from, to, asked, want string }{
		{"a/b", "192.0.2.1", "", "ipv4"},
		{"a/b", "2001:db8::1", "", "ipv6"},
		{"a/b", "192.0.2.1", "ipv4", "ipv4"},
		{"fd00::2", "2001:db8::1", "IPv6", "ipv6"},
	} {
		got, err := s.Explain(t.Context(), &fairleadv1.ExplainRequest{From: test.from, To: test.to, Port: 80, Family: test.asked})
		if err != nil || got.GetFamily() != test.want {
			t.Errorf("%+v: about %q, %v", test, got.GetFamily(), err)
		}
	}
}
