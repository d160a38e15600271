package datapath_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// TestHostFirewall has a server on the first node, a client on the second, and pods: a policy for the node that comes into
// force cuts nothing that is open, refuses what is new, and is lifted by a rule.
func TestHostFirewall(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		ctx := context.Background()
		n, other := c.nodes[0], c.nodes[1]
		must(t, n.datapath.Close())
		n.config.HostFirewall = true
		n.open()
		n.space.echoTCP(t, "0.0.0.0:2222")
		server := n.config.NodeAddress.String() + ":2222"
		before, err := other.space.dial("tcp4", server)
		must(t, err)
		defer before.Close()
		must(t, n.datapath.UpsertHost(ctx, datapath.Host{PolicyIngress: true}))
		if _, err := ask(before, "still there?"); err != nil {
			t.Errorf("the connection of before the policy was cut: %v", err)
		}
		if _, err := other.space.try("tcp4", server); err == nil {
			t.Error("a new connection came through")
		}
		if _, err := n.pods[0].space.try("tcp4", server); err == nil {
			t.Error("a pod came through")
		}
		// The node's own connections work: their answers need no leave.
		other.space.echoTCP(t, "0.0.0.0:3333")
		if _, err := n.space.try("tcp4", other.config.NodeAddress.String()+":3333"); err != nil {
			t.Errorf("the node does not get answers: %v", err)
		}
		n.pods[0].space.echoTCP(t, "0.0.0.0:8080")
		if _, err := n.space.try("tcp4", n.pods[0].address.String()+":8080"); err != nil {
			t.Errorf("the node does not reach its pod (kubelet's probes): %v", err)
		}
		other.pods[0].space.echoTCP(t, "0.0.0.0:8080")
		if _, err := n.space.try("tcp4", other.pods[0].address.String()+":8080"); err != nil {
			t.Errorf("the node does not reach a pod of another node: %v", err)
		}
		if _, err := n.pods[0].space.try("tcp4", other.pods[0].address.String()+":8080"); err != nil {
			t.Errorf("pods do not reach each other across nodes: %v", err)
		}
		must(t, n.datapath.ApplyPolicy(ctx, []datapath.PolicyEntry{{PolicyKey: datapath.PolicyKey{Endpoint: datapath.HostEndpoint,
			Direction: datapath.Ingress, Protocol: unix.IPPROTO_TCP, Port: 2222, PortPrefix: 16}, PolicyValue: datapath.PolicyValue{Rule: 9}}}, nil))
		must(t, n.datapath.UpsertHost(ctx, datapath.Host{PolicyEgress: true}))
		if _, err := n.space.try("tcp4", other.config.NodeAddress.String()+":3333"); err == nil {
			t.Error("the node reaches another in spite of its egress policy")
		}
		if _, err := other.space.try("tcp4", server); err != nil {
			t.Errorf("answers of the node need no leave: %v", err)
		}
		must(t, n.datapath.UpsertHost(ctx, datapath.Host{PolicyIngress: true}))
		for name, s := range map[string]*space{"the other node": other.space, "a pod": n.pods[1].space} {
			if _, err := s.try("tcp4", server); err != nil {
				t.Errorf("%s is refused in spite of the rule: %v", name, err)
			}
		}
	})
}
