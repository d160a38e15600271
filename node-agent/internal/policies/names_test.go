package policies

import (
	"context"
	"net/netip"
	"testing"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

const toNames = `{"endpointSelector":{"matchLabels":{"app":"web"}},"egress":[{"toFQDNs":[{"matchPattern":"*.example.org"}],"toPorts":[{"ports":[{"port":"443","protocol":"TCP"}]}]}]}`

func TestNamesGiveAddressesAnIdentity(t *testing.T) {
	r := newRig(t, ModeDefault)
	ctx := context.Background()
	r.UseProxies(Proxies{}, nil)
	if _, err := r.AddSubject(ctx, 1, labels(t, "k8s:app=web"), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Upsert(ctx, parse(t, document("names", toNames))); err != nil {
		t.Fatal(err)
	}
	if names := r.Names(); len(names) != 1 || !names[0].Matches("www.example.org") {
		t.Fatalf("names %v", names)
	}
	lines := func() (out []datapath.PolicyEntry) {
		all, err := r.dp.Policy(1)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range all {
			if l.Direction == datapath.Egress {
				out = append(out, l)
			}
		}
		return out
	}
	if l := lines(); len(l) != 0 {
		t.Fatalf("lines before any name is known: %+v", l)
	}
	address := netip.MustParseAddr("203.0.113.80")
	if err := r.SetNames(ctx, map[netip.Addr][]string{address: {"*.example.org"}}); err != nil {
		t.Fatal(err)
	}
	l := lines()
	if len(l) != 1 || l[0].Port != 443 || !policy.NumericIdentity(l[0].Identity).IsLocal() {
		t.Fatalf("lines %+v", l)
	}
	if e, ok := r.cache.Find(address); !ok || e.Identity != l[0].Identity {
		t.Errorf("published as %+v", e)
	}
	// Another policy's change must not take it away, and the same again changes nothing.
	if err := r.Upsert(ctx, parse(t, document("range", fromRange))); err != nil {
		t.Fatal(err)
	}
	if err := r.SetNames(ctx, map[netip.Addr][]string{address: {"*.example.org"}}); err != nil || len(lines()) != 1 {
		t.Errorf("lines %+v, %v", lines(), err)
	}
	if err := r.SetNames(ctx, map[netip.Addr][]string{address: {}}); err != nil || len(lines()) != 0 {
		t.Errorf("lines after the name is forgotten: %+v, %v", lines(), err)
	}
	if e, ok := r.cache.Find(address); ok && e.Identity == l[0].Identity {
		t.Errorf("still published as %+v", e)
	}
}
