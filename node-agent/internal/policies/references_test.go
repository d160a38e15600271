package policies

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/policy"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// allowed asks the lines in the (fake) kernel as the programs do.
func (r *rig) allowed(t *testing.T, id datapath.EndpointID, direction policy.Direction, address string, port uint16) bool {
	t.Helper()
	ips, err := r.dp.IPs()
	if err != nil {
		t.Fatal(err)
	}
	var peer policy.NumericIdentity = policy.IdentityWorld
	longest := -1
	for _, e := range ips {
		if e.Prefix.Contains(netip.MustParseAddr(address)) && e.Prefix.Bits() > longest {
			longest, peer = e.Prefix.Bits(), policy.NumericIdentity(e.Identity)
		}
	}
	lines, err := r.dp.Policy(id)
	if err != nil {
		t.Fatal(err)
	}
	entries := make([]policy.Entry, 0, len(lines))
	for _, l := range lines {
		entries = append(entries, policy.Entry{Key: policy.Key{Direction: policy.Direction(l.Direction), Peer: policy.NumericIdentity(l.Identity),
			Protocol: l.Protocol, Port: l.Port, PortPrefix: l.PortPrefix}, Deny: l.Deny})
	}
	yes, _ := policy.LookupKernel(entries, r.enforced[id], direction, peer, policy.AnyPeer, policy.ProtocolTCP, port)
	return yes
}

func TestGroupsAndServicesComeAndGo(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	err := r.Upsert(ctx, parse(t, document("p", `{"endpointSelector":{"matchLabels":{"app":"web"}},"egress":[
{"toCIDRSet":[{"cidrGroupRef":"partners","except":["198.51.100.128/25"]}]},{"toServices":[{"k8sService":{"serviceName":"db","namespace":"a"}}]}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	check := func(step string, want map[string]bool) {
		t.Helper()
		for address, open := range want {
			if r.allowed(t, 1, policy.Egress, address, 443) != open {
				t.Errorf("%s: %s allowed is %v", step, address, !open)
			}
		}
	}
	check("before the group is there", map[string]bool{"198.51.100.1": false, "192.0.2.9": false})
	if err := r.SetCIDRGroup(ctx, policy.CIDRGroup{Name: "partners", Prefixes: prefixes("198.51.100.0/24")}); err != nil {
		t.Fatal(err)
	}
	check("with the group", map[string]bool{"198.51.100.1": true, "198.51.100.200": false, "203.0.113.1": false, "192.0.2.9": false})
	before := len(r.dp.Calls())
	if err := r.SetCIDRGroup(ctx, policy.CIDRGroup{Name: "partners", Prefixes: prefixes("198.51.100.0/24", "203.0.113.0/24")}); err != nil {
		t.Fatal(err)
	}
	check("with a second range", map[string]bool{"198.51.100.1": true, "203.0.113.1": true})
	// Lines before the ipcache: nobody is judged by an identity that no line knows; and only what is new is written.
	calls := r.dp.Calls()[before:]
	if !slices.Equal(calls, []string{"UpsertIP", "ApplyPolicy"}) && !slices.Equal(calls, []string{"ApplyPolicy", "UpsertIP"}) {
		t.Errorf("one more range was written by %v", calls)
	}
	if err := r.SetService(ctx, policy.ServicePeers{ServiceName: policy.ServiceName{Namespace: "a", Name: "db"}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.9")}}); err != nil {
		t.Fatal(err)
	}
	check("with a service of addresses", map[string]bool{"192.0.2.9": true, "192.0.2.10": false})
	_ = r.SetIdentity(ctx, 300, labels(t, "k8s:app=db"))
	if err := r.SetService(ctx, policy.ServicePeers{ServiceName: policy.ServiceName{Namespace: "a", Name: "db"}, Selector: map[string]string{"app": "db"}}); err != nil {
		t.Fatal(err)
	}
	_ = r.cache.Upsert(ctx, ipcache.SourceEndpointObject, ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: netip.MustParsePrefix("10.1.0.5/32"), Identity: 300}})
	check("with a service of pods", map[string]bool{"192.0.2.9": false, "10.1.0.5": true})
	if err := errors.Join(r.RemoveCIDRGroup(ctx, "partners"), r.RemoveService(ctx, policy.ServiceName{Namespace: "a", Name: "db"})); err != nil {
		t.Fatal(err)
	}
	check("without both", map[string]bool{"198.51.100.1": false, "10.1.0.5": false})
	if ips, _ := r.dp.IPs(); slices.ContainsFunc(ips, func(e datapath.IPEntry) bool { return policy.NumericIdentity(e.Identity).IsLocal() }) {
		t.Errorf("ranges were left behind: %v", ips)
	}
}

// TestRangesKeepTheirNumbers restarts the manager on the same datapath, in which the policies come in another order.
func TestRangesKeepTheirNumbers(t *testing.T) {
	ctx := context.Background()
	checkpoint := filepath.Join(t.TempDir(), "ranges.json")
	first := newRig(t, ModeDefault)
	if err := first.Restore(checkpoint, nil); err != nil {
		t.Fatal(err)
	}
	ranges := []string{"198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "192.0.2.1/32"}
	for i, r := range ranges {
		if err := first.Upsert(ctx, parse(t, document("p"+r[:1]+string(rune('a'+i)), `{"endpointSelector":{},"egress":[{"toCIDR":["`+r+`"]}]}`))); err != nil {
			t.Fatal(err)
		}
	}
	// A node has one of the addresses: the statement is stronger, so the pinned ipcache does not tell of the range.
	_ = first.cache.Upsert(ctx, ipcache.SourceRemoteNode, ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Identity: 6}})
	if _, err := first.Retry(ctx); err != nil {
		t.Fatal(err)
	}
	numbers := map[string]uint32{}
	for _, r := range ranges {
		e, ok := first.cache.Get(ipcache.SourceCIDR, netip.MustParsePrefix(r))
		if !ok {
			t.Fatalf("%s has no number", r)
		}
		numbers[r] = e.Identity
	}
	pinned, _ := first.dp.IPs()
	cache := ipcache.New(slog.Default())
	again := New(first.dp, cache, ModeDefault, slog.Default())
	if err := again.Restore(checkpoint, pinned); err != nil {
		t.Fatal(err)
	}
	// A new range comes first: it must not take a number that stands for another one in the kernel.
	for i, r := range append([]string{"100.64.0.0/10"}, ranges[1], ranges[3], ranges[0], ranges[2]) {
		if err := again.Upsert(ctx, parse(t, document("q"+string(rune('a'+i)), `{"endpointSelector":{},"egress":[{"toCIDR":["`+r+`"]}]}`))); err != nil {
			t.Fatal(err)
		}
	}
	calls := len(first.dp.Calls())
	if err := errors.Join(again.Start(ctx), cache.Start(ctx, first.dp)); err != nil {
		t.Fatal(err)
	}
	for _, r := range ranges {
		if e, _ := cache.Get(ipcache.SourceCIDR, netip.MustParsePrefix(r)); e.Identity != numbers[r] {
			t.Errorf("%s had number %d and has %d after the restart", r, numbers[r], e.Identity)
		}
	}
	e, _ := cache.Get(ipcache.SourceCIDR, netip.MustParsePrefix("100.64.0.0/10"))
	for r, n := range numbers {
		if e.Identity == n {
			t.Errorf("the new range got the number of %s", r)
		}
	}
	t.Logf("the restart made %d calls", len(first.dp.Calls())-calls)
}

func TestNodesAreNamedByTheirLabels(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, ModeDefault)
	refused := parse(t, document("p", `{"endpointSelector":{},"egress":[{"toNodes":[{"matchLabels":{"zone":"a"}}]}]}`))
	if err := r.Upsert(ctx, refused); err != nil {
		t.Fatal(err)
	}
	if d := r.Describe(); len(d) != 1 || d[0].Valid || d[0].Problems[0].Code != "setting-off" {
		t.Fatalf("without the setting the policy is described as %+v", d)
	}
	if id, err := r.NodeIdentity(ctx, "two"); id != policy.IdentityRemoteNode || err != nil {
		t.Fatalf("without the setting a node has identity %d (%v)", id, err)
	}
	r = newRig(t, ModeDefault)
	r.UseNodes(NodeOptions{Self: "one", SelectorLabels: true, CIDR: true})
	_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	if err := r.Upsert(ctx, refused); err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddr("192.168.7.2")
	if err := r.SetNode(ctx, "two", map[string]string{"zone": "a", "host": ""}, []netip.Addr{address}); err != nil {
		t.Fatal(err)
	}
	id, err := r.NodeIdentity(ctx, "two")
	if err != nil || !id.IsNode() || id == policy.IdentityRemoteNode {
		t.Fatalf("the node has identity %d (%v)", id, err)
	}
	publish := func() {
		_ = r.cache.Upsert(ctx, ipcache.SourceRemoteNode, ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: netip.PrefixFrom(address, 32), Identity: uint32(id)}})
	}
	publish()
	if !r.allowed(t, 1, policy.Egress, "192.168.7.2", 80) {
		t.Error("the node of the zone is not reached")
	}
	if err := r.SetNode(ctx, "two", map[string]string{"zone": "b"}, []netip.Addr{address}); err != nil {
		t.Fatal(err)
	}
	if r.allowed(t, 1, policy.Egress, "192.168.7.2", 80) {
		t.Error("the node is still reached after it left the zone")
	}
	// policyCIDRMatchMode nodes.
	if err := r.Upsert(ctx, parse(t, document("cidr", `{"endpointSelector":{},"egress":[{"toCIDR":["192.168.0.0/16"]}]}`))); err != nil {
		t.Fatal(err)
	}
	if !r.allowed(t, 1, policy.Egress, "192.168.7.2", 80) {
		t.Error("a CIDR rule does not match the node")
	}
	// The API server moves to the node.
	identities, err := r.SetAPIServer(ctx, []netip.Addr{address})
	if err != nil || identities[address] != id {
		t.Fatalf("the API server's address has %v (%v)", identities, err)
	}
	if l, _ := r.Labels(id); !l.HasReserved("kube-apiserver") || !l.HasReserved("remote-node") {
		t.Errorf("the node's labels are %v", l)
	}
	// And to this node: identity host carries the label too.
	own := netip.MustParseAddr("192.168.7.1")
	_ = r.SetNode(ctx, "one", nil, []netip.Addr{own})
	if _, err := r.SetAPIServer(ctx, []netip.Addr{own}); err != nil {
		t.Fatal(err)
	}
	if l, _ := r.Labels(policy.IdentityHost); !l.HasReserved("kube-apiserver") || !l.HasReserved("host") {
		t.Errorf("this node's labels are %v", l)
	}
	if l, _ := r.Labels(id); l.HasReserved("kube-apiserver") {
		t.Errorf("the other node keeps the label: %v", l)
	}
	if err := r.RemoveNode(ctx, "two"); err != nil {
		t.Fatal(err)
	}
	if _, known := r.Labels(id); known {
		t.Error("the node's identity outlived it")
	}
}

// TestAPIServerOutside: an API server that runs on no node is the world as well, and a range means its address; a node that
// takes the address over makes it a node's.
func TestAPIServerOutside(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, ModeDefault)
	r.UseNodes(NodeOptions{Self: "one"})
	_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	address := netip.MustParseAddr("198.51.100.10")
	publish := func() {
		t.Helper()
		identities, err := r.SetAPIServer(ctx, []netip.Addr{address})
		if err != nil {
			t.Fatal(err)
		}
		_ = r.cache.Upsert(ctx, ipcache.SourceKubernetesAPI, ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: netip.PrefixFrom(address, 32), Identity: uint32(identities[address])}})
		if err := r.PruneAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	peers := map[string][2]bool{ // Whether it is meant, outside of the cluster and on a node.
		`"toEntities":["kube-apiserver"]`: {true, true}, `"toEntities":["world"]`: {true, false}, `"toEntities":["remote-node"]`: {false, true},
		`"toCIDR":["198.51.100.10/32"]`: {true, false}, `"toCIDR":["198.51.100.0/24"]`: {true, false}, `"toCIDR":["0.0.0.0/0"]`: {true, false},
		`"toEntities":["cluster"]`: {true, true},
	}
	for i, where := range []string{"outside", "on a node"} {
		for to, want := range peers {
			if err := r.Upsert(ctx, parse(t, document("p", `{"endpointSelector":{},"egress":[{`+to+`}]}`))); err != nil {
				t.Fatal(err)
			}
			if got := r.allowed(t, 1, policy.Egress, address.String(), 443); got != want[i] {
				t.Errorf("%s, %s: reached %v, want %v", where, to, got, want[i])
			}
		}
		if err := r.Delete(ctx, policy.Ref{Kind: policy.KindCiliumNetworkPolicy, Namespace: "a", Name: "p"}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			_ = r.SetNode(ctx, "two", nil, []netip.Addr{address})
			publish()
		}
	}
	if e, _ := r.cache.Find(address); policy.NumericIdentity(e.Identity) != policy.IdentityKubeAPIServer {
		t.Errorf("on a node the address has identity %d", e.Identity)
	}
	if len(r.prefixes) > 0 {
		t.Errorf("ranges were left behind: %v", r.prefixes)
	}
}

// ordered is a datapath that looks at every publication of an address: the identity that it gets has to have its lines.
type ordered struct {
	datapath.Datapath
	check func(datapath.IPEntry)
}

func (o ordered) UpsertIP(ctx context.Context, entries ...datapath.IPEntry) error {
	for _, e := range entries {
		o.check(e)
	}
	return o.Datapath.UpsertIP(ctx, entries...)
}

// TestNobodyIsJudgedByAnIdentityWithoutLines: a range inside of one that is allowed gets an identity of its own; when the
// ipcache publishes it, the lines that allow it are in the kernel, so that no packet of the range is dropped in between.
func TestNobodyIsJudgedByAnIdentityWithoutLines(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, ModeDefault)
	_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	if err := r.Upsert(ctx, parse(t, document("wide", `{"endpointSelector":{},"egress":[{"toCIDR":["198.51.0.0/16"]}]}`))); err != nil {
		t.Fatal(err)
	}
	published := 0
	fake := r.dp
	if err := r.cache.Start(ctx, ordered{fake, func(e datapath.IPEntry) {
		published++
		lines, _ := fake.Policy(1)
		if !slices.ContainsFunc(lines, func(l datapath.PolicyEntry) bool { return l.Identity == e.Identity && !l.Deny }) {
			t.Errorf("%s is published as %d, and no line knows it: %+v", e.Prefix, e.Identity, lines)
		}
	}}); err != nil {
		t.Fatal(err)
	}
	before := published
	if err := r.Upsert(ctx, parse(t, document("narrow", `{"endpointSelector":{},"egress":[{"toCIDR":["198.51.100.0/24"],"toPorts":[{"ports":[{"port":"443"}]}]}]}`))); err != nil {
		t.Fatal(err)
	}
	if err := r.SetCIDRGroup(ctx, policy.CIDRGroup{Name: "g", Prefixes: prefixes("198.51.200.0/24")}); err != nil {
		t.Fatal(err)
	}
	if err := r.Upsert(ctx, parse(t, document("group", `{"endpointSelector":{},"egress":[{"toCIDRSet":[{"cidrGroupRef":"g"}],"toPorts":[{"ports":[{"port":"443"}]}]}]}`))); err != nil {
		t.Fatal(err)
	}
	if published != before+2 {
		t.Errorf("%d ranges were published, want 2", published-before)
	}
	if !r.allowed(t, 1, policy.Egress, "198.51.100.9", 80) || !r.allowed(t, 1, policy.Egress, "198.51.200.9", 80) {
		t.Error("the narrower ranges lost what the wider one allows")
	}
}
