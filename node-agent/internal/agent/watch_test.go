package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"fairlead.dev/node-agent/internal/kubernetes"
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
