package endpoints

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Annotations of pods that limit their bandwidth, in bits per second.
const (
	AnnotationIngressBandwidth = "kubernetes.io/ingress-bandwidth"
	AnnotationEgressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// BandwidthAnnotations lists those that an agent has to know of a pod.
var BandwidthAnnotations = []string{AnnotationIngressBandwidth, AnnotationEgressBandwidth}

// Bandwidth is what a pod's annotations say.
type Bandwidth struct {
	// Ingress and Egress are bytes per second; 0: no limit.
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
	// Problem names annotations that are no bandwidth; such a direction has no limit.
	Problem string `json:"problem,omitempty"`
}

// Kubernetes' own bounds of these annotations.
var leastBandwidth, mostBandwidth = resource.MustParse("1k"), resource.MustParse("1P")

// bytesPerSecond reads a quantity of bits per second.
func bytesPerSecond(text string) (uint64, error) {
	q, err := resource.ParseQuantity(strings.TrimSpace(text))
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no quantity", text)
	case q.Cmp(leastBandwidth) < 0 || q.Cmp(mostBandwidth) > 0:
		return 0, fmt.Errorf("%q is not between 1k and 1P bits per second", text)
	}
	return uint64(q.Value()) / 8, nil
}

// bandwidthOf reads a pod's annotations.
func bandwidthOf(pod *corev1.Pod) Bandwidth {
	var out Bandwidth
	var problems []error
	for name, field := range map[string]*uint64{AnnotationIngressBandwidth: &out.Ingress, AnnotationEgressBandwidth: &out.Egress} {
		text, ok := pod.Annotations[name]
		if !ok {
			continue
		}
		limit, err := bytesPerSecond(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w; nothing is limited in that direction. Write it as 10M", name, err))
			continue
		}
		*field = limit
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if err := errors.Join(problems...); err != nil {
		out.Problem = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return out
}

// setBandwidth takes up what the annotations say now; true where it is something else than before. The caller holds the
// entry's publication.
func (m *Manager) setBandwidth(x *entry, now Bandwidth) bool {
	if x.endpoint.Bandwidth == now {
		return false
	}
	x.endpoint.Bandwidth = now
	if now.Problem != "" {
		m.Log.Warn("a pod's bandwidth annotation is not understood", "endpoint", x.endpoint.ID, "pod", x.endpoint.Pod(), "problem", now.Problem)
	}
	return true
}
