package flows_test

import (
	"net/netip"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"

	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/flows/flowtest"
)

// changing is a cluster that changes, and counts what it is asked.
type changing struct {
	flowtest.Resolver
	version   uint64
	pod       string
	unlabeled bool
	service   bool
	questions int
}

func (c *changing) Version() uint64 { return c.version }

func (c *changing) ByAddress(a netip.Addr, identity uint32) flows.EndpointInfo {
	c.questions++
	info := c.Resolver.ByAddress(a, identity)
	if a == flowtest.Deathstar {
		info.PodName = c.pod
		if c.unlabeled {
			info.Labels = nil
		}
	}
	return info
}

func (c *changing) HasService(netip.Addr) bool { return c.service }

func (c *changing) Service(netip.Addr, uint16, uint8) (flows.ServiceInfo, bool) {
	c.questions++
	return flows.ServiceInfo{Namespace: "default", Name: "deathstar"}, true
}

// Who is who is asked once as long as nothing changes, and again with the first event after a change.
func TestAnswersHoldUntilTheVersionChanges(t *testing.T) {
	cluster := &changing{pod: "deathstar-1"}
	store := flows.New(flows.Options{Resolver: cluster, Node: flowtest.Node(), Capacity: 255})
	var port uint16 = 40_000
	newest := func() *flowpb.Flow {
		t.Helper()
		port++
		store.Ingest(flowtest.Delivered(start.Add(time.Duration(port)*time.Millisecond), port, 0x02))
		all, _ := query(t, store, &observerpb.GetFlowsRequest{Number: 1})
		if len(all) != 1 || all[0].GetL4().GetTCP().GetSourcePort() != uint32(port) {
			t.Fatalf("got %v", all)
		}
		return all[0]
	}
	for range 3 {
		newest()
	}
	if cluster.questions != 2 {
		t.Fatalf("asked %d times about two sides that do not change", cluster.questions)
	}
	// The address is another pod's now; the version says so.
	cluster.pod, cluster.version = "deathstar-2", 1
	if got := newest().GetDestination().GetPodName(); got != "deathstar-2" {
		t.Errorf("the first event after the change has %s", got)
	}
	// A service of that address comes, and goes.
	cluster.service, cluster.version = true, 2
	if got := newest().GetDestinationService().GetName(); got != "deathstar" {
		t.Errorf("no service with the first event after it came: %q", got)
	}
	cluster.service, cluster.version = false, 3
	if got := newest().GetDestinationService(); got != nil {
		t.Errorf("a service that is gone: %v", got)
	}
	// An identity whose labels are not known yet is asked for again without a change of version.
	cluster.unlabeled, cluster.version = true, 4
	if got := newest().GetDestination().GetLabels(); len(got) != 0 {
		t.Fatalf("labels %v", got)
	}
	cluster.unlabeled = false
	if got := newest().GetDestination().GetLabels(); len(got) == 0 {
		t.Error("the labels never came")
	}
}
