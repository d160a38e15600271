package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/kubernetes"
)

const (
	// warnAgain is after how long a warning that still holds is given again; the API server forgets events after an hour.
	warnAgain = time.Hour
	// warnRetry is how long to wait where the API server refused one.
	warnRetry = time.Minute
	// warnMost bounds what is remembered.
	warnMost = 4096
)

// warnings tells the owners of objects what is wrong with them, where they look: as Events of the API server. A warning has
// a name that follows from what it says, so that several agents, and one that was restarted, say it once.
type warnings struct {
	create func(ctx context.Context, r kubernetes.Resource, in runtime.Object) error
	log    *slog.Logger
	now    func() time.Time

	mu sync.Mutex
	// due is when a warning is given again, by its name.
	due map[string]time.Time
}

func newWarnings(create func(context.Context, kubernetes.Resource, runtime.Object) error, log *slog.Logger) *warnings {
	return &warnings{create: create, log: log, now: time.Now, due: map[string]time.Time{}}
}

func (w *warnings) warn(ctx context.Context, about corev1.ObjectReference, reason, message string) {
	now := w.now()
	sum := sha256.Sum256([]byte(string(about.UID) + "\n" + reason + "\n" + message + "\n" + now.UTC().Truncate(warnAgain).String()))
	name := fmt.Sprintf("%s.%x", about.Name, sum[:8])
	w.mu.Lock()
	due, said := w.due[string(about.UID)+reason+message]
	if said && now.Before(due) {
		w.mu.Unlock()
		return
	}
	if len(w.due) >= warnMost {
		clear(w.due)
	}
	w.due[string(about.UID)+reason+message] = now.Add(warnAgain)
	w.mu.Unlock()
	at := metav1.NewTime(now)
	err := w.create(ctx, kubernetes.Resource{Group: corev1.SchemeGroupVersion, Name: "events", Namespace: about.Namespace}, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: about.Namespace}, InvolvedObject: about, Type: corev1.EventTypeWarning,
		Reason: reason, Message: message, FirstTimestamp: at, LastTimestamp: at, Count: 1, Source: corev1.EventSource{Component: "fairlead-agent"},
		ReportingController: "fairlead-agent"})
	if err == nil || apierrors.IsAlreadyExists(err) || ctx.Err() != nil {
		return
	}
	w.log.Warn("a warning could not be written as an event", "object", about.Kind+" "+about.Namespace+"/"+about.Name, "warning", message, "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due[string(about.UID)+reason+message] = now.Add(warnRetry)
}

func podReference(e endpoints.Endpoint) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: e.Namespace, Name: e.PodName, UID: types.UID(e.PodUID)}
}
