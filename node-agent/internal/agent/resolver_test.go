package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/services"
	"fairlead.dev/node-agent/policy"
)

// Whatever changes an answer changes the version, or flows would show who was there before.
func TestResolverVersion(t *testing.T) {
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	cache, registry := ipcache.New(log), identities.NewRegistry(nil, log)
	var manager *services.Manager
	r := &resolver{cache: cache, registry: registry, services: func() *services.Manager { return manager }}
	pod, cluster := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.96.0.5")
	owned := func(name string) ipcache.Entry {
		return ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: netip.PrefixFrom(pod, 32), Identity: 300}, Owner: ipcache.Owner{Namespace: "a", PodName: name}}
	}
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: cluster.String(), ClusterIPs: []string{cluster.String()}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}}
	who := func() string { return r.ByAddress(pod, 300).PodName }
	labels := func() string {
		if texts := r.ByAddress(pod, 300).Labels; len(texts) > 0 {
			return texts[0]
		}
		return ""
	}
	served := func() string {
		if !r.HasService(cluster) {
			return ""
		}
		s, _ := r.Service(cluster, 80, 6)
		return s.Name
	}
	for _, step := range []struct {
		what   string
		change func() error
		ask    func() string
		want   string
	}{
		{"an identity is learned", func() error {
			registry.Learn(300, policy.LabelsFromMap(map[string]string{"k8s:app": "web"}))
			return nil
		}, labels, "k8s:app=web"},
		{"an address has a pod", func() error { return cache.Upsert(ctx, ipcache.SourceEndpointObject, owned("one")) }, who, "one"},
		{"it is another pod's", func() error { return cache.Upsert(ctx, ipcache.SourceEndpointObject, owned("two")) }, who, "two"},
		{"it is nobody's", func() error {
			return cache.Delete(ctx, ipcache.SourceEndpointObject, netip.PrefixFrom(pod, 32), nil)
		}, who, ""},
		{"the identity has other labels", func() error {
			registry.Learn(300, policy.LabelsFromMap(map[string]string{"k8s:app": "db"}))
			return nil
		}, labels, "k8s:app=db"},
		{"services are there", func() error {
			manager = services.New(&datapathtest.Fake{}, services.Node{}, nil, log)
			return manager.Start(ctx)
		}, served, ""},
		{"a service comes", func() error { return manager.SetService(ctx, services.Key{Namespace: "a", Name: "web"}, web) }, served, "web"},
		{"it goes", func() error { return manager.SetService(ctx, services.Key{Namespace: "a", Name: "web"}, nil) }, served, ""},
	} {
		before := r.Version()
		if err := step.change(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if got := step.ask(); got != step.want {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
		if r.Version() <= before {
			t.Errorf("%s: the version stays %d", step.what, before)
		}
	}
}
