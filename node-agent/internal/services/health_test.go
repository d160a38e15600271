package services

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"fairlead.dev/node-agent/internal/datapath/datapathtest"
)

// freePort is one that nobody listens on by either family.
func freePort(t *testing.T) uint16 {
	t.Helper()
	probe, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	return uint16(probe.Addr().(*net.TCPAddr).Port)
}

// loopbacks are this machine's own addresses, one of each family that it has.
func loopbacks(t *testing.T) (out []string) {
	t.Helper()
	for _, address := range []string{"127.0.0.1", "::1"} {
		probe, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Logf("nothing can be asked by %s: %v", address, err)
			continue
		}
		probe.Close()
		out = append(out, address)
	}
	return out
}

// health is what a load balancer learns.
type health struct {
	status  int
	weight  string
	Service struct{ Namespace, Name string }
	Local   int  `json:"localEndpoints"`
	Healthy bool `json:"serviceProxyHealthy"`
}

func askHealth(address string, port uint16, path string) (out health, err error) {
	r, err := http.Get(fmt.Sprintf("http://%s%s", net.JoinHostPort(address, fmt.Sprint(port)), path))
	if err != nil {
		return out, err
	}
	defer r.Body.Close()
	out.status, out.weight = r.StatusCode, r.Header.Get("X-Load-Balancing-Endpoint-Weight")
	return out, json.NewDecoder(r.Body).Decode(&out)
}

// awaitHealth asks until somebody answers: listeners are made in the background.
func awaitHealth(t *testing.T, address string, port uint16, path string) health {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got, err := askHealth(address, port, path)
		if err == nil {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A load balancer may ask by either family, and hears of the endpoints that its clients of that family will be sent to.
func TestHealthPort(t *testing.T) {
	port := freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := New(&datapathtest.Fake{}, here, NewHealth(ctx, nil, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	_ = m.Start(ctx)
	publish := func(clusterIPs ...string) {
		_ = m.SetService(ctx, Key{"a", "web"}, service(func(s *corev1.Service) {
			local(s)
			s.Spec.Type, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, int32(port)
			s.Spec.ClusterIP, s.Spec.ClusterIPs = clusterIPs[0], clusterIPs
		}))
	}
	addresses := loopbacks(t)
	expect := func(what string, want PerFamily) {
		t.Helper()
		for _, address := range addresses {
			n := want.of(address == "::1")
			status := http.StatusOK
			if n == 0 {
				status = http.StatusServiceUnavailable
			}
			got := awaitHealth(t, address, port, "/")
			if got.status != status || got.Local != n || got.weight != fmt.Sprint(n) || !got.Healthy || got.Service.Name != "web" || got.Service.Namespace != "a" {
				t.Errorf("%s, asked at %s: %+v, want %d with %d endpoints", what, address, got, status, n)
			}
		}
	}
	v4, v6 := "10.96.0.5", "fd00::5"
	publish(v4, v6)
	expect("no endpoints", PerFamily{})
	_ = m.SetSlice(ctx, slice("four", ready("10.0.0.2").on("n2")), false)
	_ = m.SetSlice(ctx, slice("six", ready("fd00:1::2").on("n2"), terminating("fd00:1::1").on("n1")), false)
	expect("endpoints elsewhere, and one that goes", PerFamily{})
	_ = m.SetSlice(ctx, slice("six", ready("fd00:1::1").on("n1"), ready("fd00:1::2").on("n2")), false)
	expect("one of IPv6 here", PerFamily{V6: 1})
	_ = m.SetSlice(ctx, slice("four", ready("10.0.0.1").on("n1"), ready("10.0.0.3").on("n1")), false)
	expect("both here", PerFamily{V4: 2, V6: 1})
	_ = m.SetSlice(ctx, slice("six"), true)
	expect("those of IPv6 went", PerFamily{V4: 2})
	publish(v4)
	expect("a service of IPv4 alone", PerFamily{V4: 2, V6: 2})
	publish(v6)
	expect("a service of IPv6 alone, without endpoints", PerFamily{})
	_ = m.SetSlice(ctx, slice("six", ready("fd00:1::1").on("n1")), false)
	expect("a service of IPv6 alone", PerFamily{V4: 1, V6: 1})
	_ = m.SetService(ctx, Key{"a", "web"}, nil)
	for _, address := range addresses {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := askHealth(address, port, "/"); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the port of a deleted service still answers at %s", address)
			}
		}
	}
}

// The node as a whole is asked for by either family as well.
func TestHealthOfTheNode(t *testing.T) {
	port := freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	healthy := make(chan bool, 1)
	healthy <- true
	is := func() bool {
		now := <-healthy
		healthy <- now
		return now
	}
	go NewHealth(ctx, is, slog.New(slog.DiscardHandler)).ServeNode(fmt.Sprintf(":%d", port))
	for _, want := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		for _, address := range loopbacks(t) {
			for _, path := range []string{"/healthz", "/livez"} {
				if got := awaitHealth(t, address, port, path); got.status != want {
					t.Errorf("%s at %s: %d, want %d", path, address, got.status, want)
				}
			}
		}
		<-healthy
		healthy <- false
	}
}
