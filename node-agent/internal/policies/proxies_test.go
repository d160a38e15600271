package policies

import (
	"context"
	"net/netip"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

const onlyGet = `{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}],"rules":{"http":[{"method":"GET"}]}}]}]}`

func TestLinesLeadToTheProxy(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	told := 0
	r.UseProxies(Proxies{HTTP: [2]uint16{4001, 4002}}, func() { told++ })
	if _, err := r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Upsert(ctx, parse(t, document("get", onlyGet))); err != nil {
		t.Fatal(err)
	}
	lines, err := r.dp.Policy(1)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, line := range lines {
		if line.Port == 80 {
			found = true
			if line.ProxyPort != 4001 || line.Deny {
				t.Errorf("line %+v", line)
			}
		}
	}
	if !found || told == 0 {
		t.Errorf("lines %+v, told %d times", lines, told)
	}
	answer := r.L7(1, policy.Ingress, policy.IdentityWorld, netip.Addr{}, policy.ProtocolTCP, 80)
	if len(answer.HTTP) != 1 || answer.Open || answer.Denied {
		t.Errorf("the proxy hears %+v", answer)
	}
	if err := r.Delete(ctx, policy.Ref{Kind: policy.KindCiliumNetworkPolicy, Namespace: "a", Name: "get"}); err != nil {
		t.Fatal(err)
	}
	if answer := r.L7(1, policy.Ingress, policy.IdentityWorld, netip.Addr{}, policy.ProtocolTCP, 80); !answer.Open {
		t.Errorf("after the policy is gone the proxy hears %+v", answer)
	}
}

func TestWithoutProxies(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	if _, err := r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Upsert(ctx, parse(t, document("get", onlyGet))); err != nil {
		t.Fatal(err)
	}
	if d := r.Describe(); len(d) != 1 || d[0].Valid || d[0].Problems[0].Code != "setting-off" {
		t.Errorf("described as %+v", d)
	}
	// A proxy that could not open its listener: closed, not open.
	r.UseProxies(Proxies{}, nil)
	if err := r.Upsert(ctx, parse(t, document("get", onlyGet))); err != nil {
		t.Fatal(err)
	}
	lines, err := r.dp.Policy(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if line.Port == 80 && line.Direction == datapath.Ingress && !line.Deny {
			t.Errorf("line %+v is open", line)
		}
	}
}
