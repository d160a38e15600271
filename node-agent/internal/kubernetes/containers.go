package kubernetes

import corev1 "k8s.io/api/core/v1"

// LastingContainers are those that run for as long as their pod does, and whose ports are therefore the pod's: its containers,
// and before them its sidecars, which Kubernetes has as init containers that are always restarted.
func LastingContainers(p *corev1.Pod) []corev1.Container {
	out := make([]corev1.Container, 0, len(p.Spec.InitContainers)+len(p.Spec.Containers))
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return append(out, p.Spec.Containers...)
}
