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
