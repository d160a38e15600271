package policies

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/policy"
)

type rig struct {
	*Manager
	dp       *datapathtest.Fake
	cache    *ipcache.Cache
	enforced map[datapath.EndpointID][2]bool
}

func newRig(t *testing.T, mode Mode) *rig {
	t.Helper()
	r := &rig{dp: &datapathtest.Fake{}, cache: ipcache.New(slog.Default()), enforced: map[datapath.EndpointID][2]bool{}}
	r.Manager = New(r.dp, r.cache, mode, slog.Default())
	r.OnEnforced(func(_ context.Context, id datapath.EndpointID, e [2]bool) error { r.enforced[id] = e; return nil })
	ctx := context.Background()
	if err := errors.Join(r.Start(ctx), r.cache.Start(ctx, r.dp)); err != nil {
		t.Fatal(err)
	}
	return r
}

func parse(t *testing.T, document string) policy.Policy {
	t.Helper()
	p, _ := policy.Parse(policy.KindAuto, []byte(document))
	return p
}

func labels(t *testing.T, texts ...string) policy.Labels {
	t.Helper()
	l, err := policy.ParseLabels(append(texts, "k8s:io.kubernetes.pod.namespace=a", "k8s:io.cilium.k8s.policy.cluster=default"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func document(name, spec string) string {
	return `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"` + name + `","namespace":"a"},"spec":` + spec + `}`
}

const fromRange = `{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"fromCIDR":["198.51.100.0/24"]}]}`

func TestRangeGetsIdentityLinesAndPlaceBeforeThePolicy(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	if _, err := r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Upsert(ctx, parse(t, document("p", fromRange))); err != nil {
		t.Fatal(err)
	}
	entry, ok := r.cache.Get(ipcache.SourceCIDR, netip.MustParsePrefix("198.51.100.0/24"))
	if !ok || !policy.NumericIdentity(entry.Identity).IsLocal() {
		t.Fatalf("got %+v", entry)
	}
	lines, _ := r.dp.Policy(1)
	if !slices.ContainsFunc(lines, func(l datapath.PolicyEntry) bool { return l.Identity == entry.Identity && !l.Deny }) || !r.enforced[1][policy.Ingress] {
		t.Fatalf("lines %+v, enforced %v", lines, r.enforced)
	}
	info, ok := r.Rule(lines[0].Rule)
	if !ok {
		t.Fatal("the rule is not known")
	}
	if list := r.Enforcing(1, false); len(list) != 1 || list[0].Name != "p" || len(r.Enforcing(1, true)) != 0 {
		t.Fatalf("enforcing %+v (%+v)", list, info)
	}
	if err := r.Delete(ctx, policy.Ref{Kind: policy.KindCiliumNetworkPolicy, Namespace: "a", Name: "p"}); err != nil {
		t.Fatal(err)
	}
	lines, _ = r.dp.Policy(1)
	ips, _ := r.dp.IPs()
	if len(lines)+len(ips) != 0 || r.enforced[1][policy.Ingress] || len(r.Enforcing(1, false)) != 0 {
		t.Fatalf("left: %+v %+v %v", lines, ips, r.enforced)
	}
}

func TestInvalidEditionLeavesTheFormerInForce(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	if err := r.Upsert(ctx, parse(t, document("p", fromRange))); err != nil {
		t.Fatal(err)
	}
	before, _ := r.dp.Policy(1)
	if err := r.Upsert(ctx, parse(t, document("p", `{"endpointSelector":{},"ingress":[{"fromCIDR":["nonsense"]}]}`))); err != nil {
		t.Fatal(err)
	}
	after, _ := r.dp.Policy(1)
	d := r.Describe()
	if !slices.Equal(before, after) || len(d) != 1 || d[0].Valid || len(d[0].Problems) == 0 {
		t.Fatalf("lines %+v, described %+v", after, d)
	}
}

func TestModes(t *testing.T) {
	ctx := context.Background()
	always := newRig(t, ModeAlways)
	enforced, err := always.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	lines, _ := always.dp.Policy(1)
	if err != nil || enforced != [2]bool{true, true} || len(lines) != 1 || lines[0].Identity != uint32(policy.IdentityHost) {
		t.Fatalf("always: %v %+v %v", enforced, lines, err)
	}
	never := newRig(t, ModeNever)
	_ = never.Upsert(ctx, parse(t, document("p", fromRange)))
	enforced, err = never.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	lines, _ = never.dp.Policy(1)
	if err != nil || enforced != [2]bool{} || len(lines) != 0 {
		t.Fatalf("never: %v %+v %v", enforced, lines, err)
	}
}

func TestRefusedLinesAreTriedAgain(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	_ = r.Upsert(ctx, parse(t, document("p", `{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"ship"}}]}]}`)))
	r.dp.Fail("ApplyPolicy", errors.New("map is full"))
	if err := r.SetIdentity(ctx, 300, labels(t, "k8s:app=ship")); err == nil {
		t.Fatal("the error was swallowed")
	}
	if left, _ := r.Retry(ctx); left != 1 {
		t.Fatalf("%d left", left)
	}
	r.dp.Fail("ApplyPolicy", nil)
	left, err := r.Retry(ctx)
	lines, _ := r.dp.Policy(1)
	if left != 0 || err != nil || !slices.ContainsFunc(lines, func(l datapath.PolicyEntry) bool { return l.Identity == 300 }) {
		t.Fatalf("%d left, %v, lines %+v", left, err, lines)
	}
}

func TestPolicyComesIntoForceWhereItsRangeIsRefused(t *testing.T) {
	for _, method := range []string{"UpsertIP", "ApplyPolicy"} {
		t.Run(method, func(t *testing.T) {
			r := newRig(t, ModeDefault)
			ctx := context.Background()
			_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
			r.dp.Fail(method, errors.New("map is full"))
			if err := r.Upsert(ctx, parse(t, document("p", fromRange))); err == nil {
				t.Fatal("the error was swallowed")
			}
			r.dp.Fail(method, nil)
			_, policyErr := r.Retry(ctx)
			_, cacheErr := r.cache.Retry(ctx)
			lines, _ := r.dp.Policy(1)
			ips, _ := r.dp.IPs()
			if policyErr != nil || cacheErr != nil || len(lines) == 0 || len(ips) != 1 || !r.enforced[1][policy.Ingress] {
				t.Fatalf("lines %+v, addresses %+v, enforced %v, errors %v, %v", lines, ips, r.enforced, policyErr, cacheErr)
			}
		})
	}
}

func TestNamedPortsOfAPeerOpenEgress(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	_, _ = r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil)
	if err := r.Upsert(ctx, parse(t, document("p", `{"endpointSelector":{"matchLabels":{"app":"web"}},"egress":[{"toEndpoints":[{"matchLabels":{"app":"ship"}}],"toPorts":[{"ports":[{"port":"http","protocol":"TCP"}]}]}]}`))); err != nil {
		t.Fatal(err)
	}
	_ = r.SetIdentity(ctx, 300, labels(t, "k8s:app=ship"))
	open := func(port uint16) bool {
		lines, _ := r.dp.Policy(1)
		return slices.ContainsFunc(lines, func(l datapath.PolicyEntry) bool { return l.Identity == 300 && l.Port == port && !l.Deny })
	}
	for _, port := range []uint16{8080, 9090} {
		if open(port) {
			t.Fatalf("%d is open before anybody names it", port)
		}
		if err := r.AddPorts(ctx, 300, policy.NamedPorts{"http": {{Protocol: policy.ProtocolTCP, Port: port}}}); err != nil || !open(port) || !open(8080) {
			t.Fatalf("%d is not open, or 8080 is not any more (%v)", port, err)
		}
	}
	_ = r.RemoveIdentity(ctx, 300)
	_ = r.SetIdentity(ctx, 300, labels(t, "k8s:app=ship"))
	if open(8080) {
		t.Fatal("the ports outlived the identity")
	}
}
