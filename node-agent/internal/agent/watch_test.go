package agent

import (
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/services"
)

func TestEditedSeesAnObjectThatWasMadeAgain(t *testing.T) {
	object := func(uid string, generation int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Generation: generation}}
	}
	tests := []struct {
		name string
		old  *corev1.Pod
		now  *corev1.Pod
		want bool
	}{
		{"status only", object("1", 1), object("1", 1), false},
		{"edited", object("1", 1), object("1", 2), true},
		{"deleted and made again", object("1", 1), object("2", 1), true},
	}
	for _, tt := range tests {
		if got := edited(tt.old, tt.now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// What is kept of a pod has the ports of all its containers that stay, sidecars among them.
func TestSidecarsKeepTheirPorts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	with := func(name string, port int32) corev1.Container {
		return corev1.Container{Name: name, Image: "x", Ports: []corev1.ContainerPort{{Name: name, ContainerPort: port}}}
	}
	sidecar := with("metrics", 9090)
	sidecar.RestartPolicy = &always
	p := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{with("setup", 1), sidecar}, Containers: []corev1.Container{with("http", 80)}}}
	trimPod(p)
	kept := map[string]int32{}
	for _, c := range kubernetes.LastingContainers(p) {
		kept[c.Name] = c.Ports[0].ContainerPort
	}
	if len(kept) != 2 || kept["metrics"] != 9090 || kept["http"] != 80 {
		t.Errorf("kept %v", kept)
	}
}

func TestStaticPodIsKnownByItsHash(t *testing.T) {
	mirror := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "api", Annotations: map[string]string{configHashAnnotation: "hash", "other": "x"}}}
	trimPod(mirror)
	for uid, want := range map[string]bool{"": true, "api": true, "hash": true, "else": false} {
		if isPod(mirror, uid) != want {
			t.Errorf("%q: %v", uid, !want)
		}
	}
	if len(mirror.Annotations) != 1 {
		t.Errorf("kept %v", mirror.Annotations)
	}
	plain := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "api"}}
	if trimPod(plain); isPod(plain, "hash") {
		t.Error("a pod without a hash was taken for one with")
	}
}

// Whoever writes slices by hand may give one to another service: the former one loses its endpoints.
func TestSliceThatChangesItsService(t *testing.T) {
	dp := &datapathtest.Fake{}
	w := &watcher{ctx: t.Context(), log: slog.New(slog.DiscardHandler), parts: &api.Parts{}}
	w.parts.Services = services.New(dp, services.Node{Name: "n1"}, nil, w.log)
	if err := w.parts.Services.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, address := range map[string]string{"web": "10.96.0.5", "shop": "10.96.0.6"} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: address, Ports: []corev1.ServicePort{{Port: 80}}}}
		if err := w.parts.Services.SetService(t.Context(), services.Key{Namespace: "a", Name: name}, s); err != nil {
			t.Fatal(err)
		}
	}
	port := int32(8080)
	of := func(service string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "mine", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}}
	}
	var last *discoveryv1.EndpointSlice
	for _, service := range []string{"web", "shop", "", "web"} {
		w.slice(last, of(service), false)
		last = of(service)
		list, err := dp.Services()
		if err != nil || len(list) != 2 {
			t.Fatalf("%d services, %v", len(list), err)
		}
		for _, s := range list {
			if has := len(s.Backends) == 1 && s.Backends[0].Address == netip.MustParseAddr("10.0.0.1"); has != (s.Name == service) {
				t.Errorf("the slice is %q's, and %s has %+v", service, s.Name, s.Backends)
			}
		}
	}
}
