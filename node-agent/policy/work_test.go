package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

// partners is a group of n ranges.
func partners(n int) CIDRGroup {
	g := CIDRGroup{Name: "partners"}
	for i := range n {
		g.Prefixes = append(g.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(i >> 8), byte(i), 0}), 24))
	}
	return g
}

// refersToPartners governs one service and names the group.
func refersToPartners(t testing.TB) Policy {
	return mustParse(t, `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"partners","namespace":"ns7"},
"spec":{"endpointSelector":{"matchLabels":{"app":"app7"}},"egress":[{"toCIDRSet":[{"cidrGroupRef":"partners"}]}]}}`)
}

// TestCostOfAChangeFollowsTheChange does the same change in a cluster and in one with ten times as many policies, identities
// and ranges, and counts what the engine does.
func TestCostOfAChangeFollowsTheChange(t *testing.T) {
	type cluster struct {
		engine *Engine
		ranges int
	}
	var clusters []cluster
	for _, size := range []struct{ policies, identities, ranges int }{{100, 500, 100}, {1000, 5000, 1000}} {
		e := clusterOf(t, size.policies, size.identities)
		group := partners(size.ranges)
		for i, prefix := range group.Prefixes {
			e.AddIdentity(IdentityLocalMin+NumericIdentity(i), LabelsForCIDR(prefix))
		}
		e.SetCIDRGroup(group)
		if _, err := e.Upsert(refersToPartners(t)); err != nil {
			t.Fatal(err)
		}
		clusters = append(clusters, cluster{e, size.ranges})
	}
	lines := func(changes []Change) (n int) {
		for _, c := range changes {
			n += len(c.Adds) + len(c.Deletes)
		}
		return n
	}
	for _, step := range []struct {
		name string
		// limit bounds the work of the large cluster; the small one's work is the yardstick.
		growth float64
		change func(c cluster) int
	}{
		{"a pod with new labels appears", 1, func(c cluster) int { return lines(c.engine.AddIdentity(60000, serviceLabels(7))) }},
		{"and disappears", 1, func(c cluster) int { return lines(c.engine.RemoveIdentity(60000)) }},
		{"one range joins a group", 1, func(c cluster) int {
			next := partners(c.ranges + 1)
			new := next.Prefixes[c.ranges]
			return lines(c.engine.AddIdentity(IdentityLocalMin+NumericIdentity(c.ranges), LabelsForCIDR(new))) + lines(c.engine.SetCIDRGroup(next))
		}},
		{"and leaves it", 1, func(c cluster) int { return lines(c.engine.SetCIDRGroup(partners(c.ranges))) }},
		{"a replica starts", 1, func(c cluster) int { return lines(c.engine.AddSubject(7000, serviceLabels(7), nil)) * 0 }},
	} {
		var cost, written [2]uint64
		for i, c := range clusters {
			before := c.engine.Work()
			written[i] = uint64(step.change(c))
			cost[i] = c.engine.Work().Total() - before.Total()
		}
		t.Logf("%s: work %d in the small cluster, %d in the large one; lines %d, %d", step.name, cost[0], cost[1], written[0], written[1])
		// What a change writes may grow with how many policies name the peer; the work must grow with nothing else.
		if float64(cost[1]) > step.growth*float64(cost[0])+float64(8*written[1])+16 {
			t.Errorf("%s: the work grew from %d to %d with the cluster", step.name, cost[0], cost[1])
		}
	}
	// An edit of one policy's port costs what the policy says: its peers on its subjects.
	for i, c := range clusters {
		before := c.engine.Work()
		changes, err := c.engine.Upsert(servicePolicy(t, 7, "8080"))
		if err != nil || len(changes) == 0 {
			t.Fatal(len(changes), err)
		}
		work := c.engine.Work()
		resolved, tried := work.PeersResolved-before.PeersResolved, work.Total()-before.Total()
		t.Logf("edit of a policy in cluster %d: %d peers resolved, %d in all, %d lines", i, resolved, tried, lines(changes))
		if tried > uint64(4*lines(changes)+200) {
			t.Errorf("an edit that writes %d lines cost %d", lines(changes), tried)
		}
	}
}

// BenchmarkGroupGainsARange is one more range in a group of 1,000, in the large cluster.
func BenchmarkGroupGainsARange(b *testing.B) {
	e := largeCluster(b)
	groups := [2]CIDRGroup{partners(1000), partners(1001)}
	for i, prefix := range groups[1].Prefixes {
		e.AddIdentity(IdentityLocalMin+NumericIdentity(i), LabelsForCIDR(prefix))
	}
	e.SetCIDRGroup(groups[0])
	if _, err := e.Upsert(refersToPartners(b)); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		if changes := e.SetCIDRGroup(groups[i%2]); len(changes) == 0 {
			b.Fatal(fmt.Sprint("nothing changed in round ", i))
		}
	}
}
