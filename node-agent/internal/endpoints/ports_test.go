package endpoints

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"fairlead.dev/node-agent/policy"
)

// A policy that names a port means that of any container which runs as long as the pod does, sidecars among them.
func TestNamedPortsOfSidecars(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(name string, number int32) []corev1.ContainerPort {
		return []corev1.ContainerPort{{Name: name, ContainerPort: number}}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Ports: port("setup", 1)}, {Ports: port("metrics", 9090), RestartPolicy: &always}},
		Containers:     []corev1.Container{{Ports: port("http", 80)}},
	}}
	_, got := identityOf(pod, nil, "default")
	want := policy.NamedPorts{"metrics": {{Protocol: policy.ProtocolTCP, Port: 9090}}, "http": {{Protocol: policy.ProtocolTCP, Port: 80}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
