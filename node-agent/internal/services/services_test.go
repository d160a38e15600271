package services

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
)

func ptr[T any](v T) *T { return &v }

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.5", Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}
	if change != nil {
		change(s)
	}
	return s
}

type condition struct {
	address                     string
	ready, serving, terminating bool
}

func slice(name string, conditions ...condition) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}}}
	for _, c := range conditions {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{c.address},
			Conditions: discoveryv1.EndpointConditions{Ready: &c.ready, Serving: &c.serving, Terminating: &c.terminating}})
	}
	return s
}

func TestBuild(t *testing.T) {
	node := netip.MustParseAddr("172.31.77.11")
	tests := []struct {
		name                 string
		change               func(*corev1.Service)
		slice                *discoveryv1.EndpointSlice
		frontends, backends  int
		terminating, headful bool
		affinity             uint32
	}{
		{name: "plain", slice: slice("s", condition{"10.0.0.1", true, true, false}, condition{"10.0.0.2", true, true, false}), frontends: 1, backends: 2},
		{name: "no endpoints is a frontend that refuses", slice: slice("s"), frontends: 1},
		{name: "unready is left out", slice: slice("s", condition{"10.0.0.1", false, false, false}), frontends: 1},
		{name: "terminating and serving is kept", slice: slice("s", condition{"10.0.0.1", false, true, true}), frontends: 1, backends: 1, terminating: true},
		{name: "terminating and broken is not", slice: slice("s", condition{"10.0.0.1", false, false, true}), frontends: 1},
		{name: "headless", change: func(s *corev1.Service) { s.Spec.ClusterIP = "None" }, slice: slice("s")},
		{name: "somebody else's", change: func(s *corev1.Service) { s.Labels = map[string]string{proxyNameLabel: "other"} }, slice: slice("s")},
		{name: "node port, external and load balancer address", slice: slice("s", condition{"10.0.0.1", true, true, false}), frontends: 4, backends: 1,
			change: func(s *corev1.Service) {
				s.Spec.Ports[0].NodePort = 30080
				s.Spec.ExternalIPs = []string{"198.51.100.80"}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.81"}}
			}},
		{name: "affinity", slice: slice("s"), frontends: 1, affinity: 10800, change: func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Build(service(tt.change), []*discoveryv1.EndpointSlice{tt.slice}, node)
			if len(got) != tt.frontends {
				t.Fatalf("%d frontends: %+v", len(got), got)
			}
			for _, s := range got {
				if len(s.Backends) != tt.backends || s.AffinitySeconds != tt.affinity {
					t.Errorf("got %+v", s)
				}
				for _, b := range s.Backends {
					if b.Terminating != tt.terminating || b.Port != 8080 {
						t.Errorf("backend %+v", b)
					}
				}
			}
		})
	}
}

func TestManagerPrunesOnlyAfterStart(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	old := datapath.Service{Frontend: datapath.Frontend{Address: netip.MustParseAddr("10.96.0.9"), Port: 1, Protocol: 6}, Namespace: "a", Name: "old"}
	_ = dp.UpsertService(ctx, old)
	m := New(dp, netip.Addr{}, slog.Default())
	_ = m.SetService(ctx, Key{"a", "web"}, service(nil))
	_ = m.SetSlice(ctx, slice("s", condition{"10.0.0.1", true, true, false}), false)
	if list, _ := dp.Services(); len(list) != 1 || list[0].Name != "old" {
		t.Fatalf("changed before Start: %+v", list)
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	list, _ := dp.Services()
	if len(list) != 1 || list[0].Name != "web" || len(list[0].Backends) != 1 {
		t.Fatalf("got %+v", list)
	}
	if key, ok := m.Find(netip.MustParseAddr("10.96.0.5"), 80, 6); !ok || key.Name != "web" {
		t.Fatal("not found by its frontend")
	}
	dp.Fail("UpsertService", errors.New("map is full"))
	if err := m.SetSlice(ctx, slice("s2", condition{"10.0.0.2", true, true, false}), false); err == nil {
		t.Fatal("the error was swallowed")
	}
	dp.Fail("UpsertService", nil)
	if n, err := m.Retry(ctx); n != 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	calls := len(dp.Calls())
	_ = m.SetSlice(ctx, slice("s2", condition{"10.0.0.2", true, true, false}), false)
	if len(dp.Calls()) != calls {
		t.Fatal("an unchanged service was written again")
	}
	_ = m.SetService(ctx, Key{"a", "web"}, nil)
	if list, _ := dp.Services(); len(list) != 0 {
		t.Fatalf("got %+v", list)
	}
}

func TestOneOfTwoServicesWithOneAddressGoes(t *testing.T) {
	for _, gone := range []string{"web", "shop"} {
		t.Run(gone, func(t *testing.T) {
			ctx := context.Background()
			dp := &datapathtest.Fake{}
			m := New(dp, netip.Addr{}, slog.Default())
			if err := m.Start(ctx); err != nil {
				t.Fatal(err)
			}
			for name, address := range map[string]string{"web": "10.96.0.5", "shop": "10.96.0.6"} {
				_ = m.SetService(ctx, Key{"a", name}, service(func(s *corev1.Service) {
					s.Name, s.Spec.ClusterIP, s.Spec.ExternalIPs = name, address, []string{"198.51.100.80"}
				}))
			}
			_ = m.SetService(ctx, Key{"a", gone}, nil)
			if left, err := m.Retry(ctx); left != 0 || err != nil {
				t.Fatalf("%d left, %v", left, err)
			}
			list, _ := dp.Services()
			if len(list) != 2 || list[0].Name == gone || list[1].Name == gone {
				t.Fatalf("got %+v", list)
			}
			if key, ok := m.Find(netip.MustParseAddr("198.51.100.80"), 80, 6); !ok || key.Name == gone {
				t.Fatalf("the address belongs to %v", key)
			}
		})
	}
}
