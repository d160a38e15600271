package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
)

func TestManagerPrunesOnlyAfterStart(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	old := datapath.Service{ServiceID: datapath.ServiceID{Namespace: "a", Name: "old"}, Frontends: []datapath.Frontend{{Address: netip.MustParseAddr("10.96.0.9"), Port: 1, Protocol: 6}}}
	_ = dp.UpsertService(ctx, old)
	dp.Restart()
	m := New(dp, Node{}, nil, slog.New(slog.DiscardHandler))
	_ = m.SetService(ctx, Key{"a", "web"}, service(nil))
	_ = m.SetSlice(ctx, slice("s", ready("10.0.0.1")), false)
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
	if err := m.SetSlice(ctx, slice("s2", ready("10.0.0.2")), false); err == nil {
		t.Fatal("the error was swallowed")
	}
	dp.Fail("UpsertService", nil)
	if n, err := m.Retry(ctx); n != 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	calls := len(dp.Calls())
	_ = m.SetSlice(ctx, slice("s2", ready("10.0.0.2")), false)
	if len(dp.Calls()) != calls {
		t.Fatal("an unchanged service was written again")
	}
	_ = m.SetService(ctx, Key{"a", "web"}, nil)
	if list, _ := dp.Services(); len(list) != 0 {
		t.Fatalf("got %+v", list)
	}
}

func TestNodeChangesFrontendsAndHints(t *testing.T) {
	ctx := context.Background()
	dp := &datapathtest.Fake{}
	m := New(dp, Node{Name: "n1"}, nil, slog.New(slog.DiscardHandler))
	_ = m.SetService(ctx, Key{"a", "web"}, service(func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 }))
	_ = m.SetSlice(ctx, slice("s", ready("10.0.0.1").hinted("zone:a"), ready("10.0.0.2").hinted("zone:b")), false)
	_ = m.Start(ctx)
	want := func(text string) {
		t.Helper()
		list, _ := dp.Services()
		if len(list) != 1 || describe(list[0]) != text {
			t.Fatalf("got %s, want %s", describe(list[0]), text)
		}
	}
	want("[ClusterIP=10.96.0.5:80] in[10.0.0.1 10.0.0.2] out[10.0.0.1 10.0.0.2]")
	_ = m.SetNode(ctx, func(n *Node) { n.Zone = "b" })
	want("[ClusterIP=10.96.0.5:80] in[10.0.0.2] out[10.0.0.2]")
	_ = m.SetNode(ctx, func(n *Node) { n.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")} })
	want("[ClusterIP=10.96.0.5:80 NodePort=192.0.2.1:30080 NodePort=0.0.0.0:30080] in[10.0.0.2] out[10.0.0.2]")
}

func TestOneOfTwoServicesWithOneAddressGoes(t *testing.T) {
	for _, gone := range []string{"web", "shop"} {
		t.Run(gone, func(t *testing.T) {
			ctx := context.Background()
			dp := &datapathtest.Fake{}
			m := New(dp, Node{}, nil, slog.New(slog.DiscardHandler))
			if err := m.Start(ctx); err != nil {
				t.Fatal(err)
			}
			for i, name := range []string{"web", "shop"} {
				_ = m.SetService(ctx, Key{"a", name}, service(func(s *corev1.Service) {
					s.Name, s.Spec.ClusterIP, s.Spec.ExternalIPs = name, fmt.Sprintf("10.96.0.%d", 5+i), []string{"198.51.100.80"}
				}))
			}
			if key, ok := m.Find(netip.MustParseAddr("198.51.100.80"), 80, 6); !ok || key.Name != "web" {
				t.Fatalf("the address belongs to %v, not to who had it first", key)
			}
			_ = m.SetService(ctx, Key{"a", gone}, nil)
			if left, err := m.Retry(ctx); left != 0 || err != nil {
				t.Fatalf("%d left, %v", left, err)
			}
			list, _ := dp.Services()
			if len(list) != 1 || list[0].Name == gone || len(list[0].Frontends) != 2 {
				t.Fatalf("got %+v", list)
			}
			if key, ok := m.Find(netip.MustParseAddr("198.51.100.80"), 80, 6); !ok || key.Name == gone {
				t.Fatalf("the address belongs to %v", key)
			}
		})
	}
}

// BenchmarkChange is one endpoint of one service that changes, in a cluster of 5,000 services with 10 endpoints each.
func BenchmarkChange(b *testing.B) {
	ctx := context.Background()
	m := New(&datapathtest.Fake{}, here, nil, slog.New(slog.DiscardHandler))
	sliceOf := func(i, shift int) *discoveryv1.EndpointSlice {
		var all []condition
		for j := range 10 {
			all = append(all, ready(fmt.Sprintf("10.%d.%d.%d", 1+i>>8, i&255, 1+j+shift)))
		}
		s := slice(fmt.Sprintf("s%d", i), all...)
		s.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("web-%d", i)}
		return s
	}
	for i := range 5000 {
		_ = m.SetService(ctx, Key{"a", fmt.Sprintf("web-%d", i)}, service(func(s *corev1.Service) {
			s.ObjectMeta = metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprintf("web-%d", i)}
			s.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", i>>8, i&255)
		}))
		_ = m.SetSlice(ctx, sliceOf(i, 0), false)
	}
	if err := m.Start(ctx); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		if err := m.SetSlice(ctx, sliceOf(i%5000, i%2), false); err != nil {
			b.Fatal(err)
		}
	}
}

// Retry is asked every 2 s: while nothing waits it must not go through all services.
func TestRetryOfNothingTakesNothing(t *testing.T) {
	ctx := context.Background()
	m := New(&datapathtest.Fake{}, Node{}, nil, slog.New(slog.DiscardHandler))
	for n := range 100 {
		_ = m.SetService(ctx, Key{"a", fmt.Sprint("web", n)}, service(func(s *corev1.Service) {
			s.Spec.ClusterIP = fmt.Sprintf("10.96.1.%d", n)
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}))
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(10, func() {
		if left, err := m.Retry(ctx); left != 0 || err != nil {
			t.Fatalf("%d left, %v", left, err)
		}
	}); n > 0 {
		t.Errorf("%.0f allocations", n)
	}
}
