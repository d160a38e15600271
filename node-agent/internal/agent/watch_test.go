package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
