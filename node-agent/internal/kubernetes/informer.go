package kubernetes

import (
	"context"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Object is any API object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Handler is told about objects in order, from one goroutine.
type Handler[T Object] struct {
	// Changed is called for new and changed objects; old is the zero T for new ones.
	Changed func(old, now T)
	Deleted func(T)
	// Release, where set, takes from an object what Changed alone needed, after it; the rest is kept. Nobody else may look at
	// what it takes, since others read the object meanwhile.
	Release func(T)
}

// lastApplied is where kubectl keeps the whole object a second time.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Informer watches one resource and keeps what it has seen.
type Informer[T Object] struct {
	store      cache.Store
	controller cache.Controller
	// listed is set when the first list was handed to the handler.
	name string
	err  atomic.Pointer[error]
}

// NewInformer makes an informer; Run starts it. list is an empty list of the type, trim (may be nil) removes from each
// object what the agent does not need.
func NewInformer[T Object](c *Client, r Resource, fieldSelector string, example T, list runtime.Object, trim func(T), h Handler[T]) *Informer[T] {
	i := &Informer[T]{name: r.Name}
	rest := c.of(r.Group)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fieldSelector
			out := list.DeepCopyObject()
			err := rest.Get().NamespaceIfScoped(r.Namespace, r.Namespace != "").Resource(r.Name).VersionedParams(&o, parameters).Do(ctx).Into(out)
			i.note(err)
			return out, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector, o.Watch = fieldSelector, true
			w, err := rest.Get().NamespaceIfScoped(r.Namespace, r.Namespace != "").Resource(r.Name).VersionedParams(&o, parameters).Watch(ctx)
			i.note(err)
			return w, err
		},
	}
	as := func(x any) (T, bool) {
		if gone, ok := x.(cache.DeletedFinalStateUnknown); ok {
			x = gone.Obj
		}
		t, ok := x.(T)
		return t, ok
	}
	var none T
	release := func(t T) {
		if h.Release != nil {
			h.Release(t)
		}
	}
	i.store, i.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source, ObjectType: example,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(x any) {
				t, ok := as(x)
				if !ok {
					return
				}
				if h.Changed != nil {
					h.Changed(none, t)
				}
				release(t)
			},
			UpdateFunc: func(x, y any) {
				a, _ := as(x)
				b, ok := as(y)
				if !ok {
					return
				}
				if h.Changed != nil && a.GetResourceVersion() != b.GetResourceVersion() {
					h.Changed(a, b)
				}
				release(b)
			},
			DeleteFunc: func(x any) {
				if t, ok := as(x); ok && h.Deleted != nil {
					h.Deleted(t)
				}
			},
		},
		Transform: func(x any) (any, error) {
			if accessor, err := meta.Accessor(x); err == nil {
				accessor.SetManagedFields(nil)
				delete(accessor.GetAnnotations(), lastApplied)
			}
			if t, ok := x.(T); ok && trim != nil {
				trim(t)
			}
			return x, nil
		},
	})
	return i
}

func (i *Informer[T]) note(err error) { i.err.Store(&err) }

// Run watches until ctx ends; errors of the API server are retried with growing pauses.
func (i *Informer[T]) Run(ctx context.Context) { i.controller.RunWithContext(ctx) }

// Synced tells whether everything of the first list was handed to the handler.
func (i *Informer[T]) Synced() bool { return i.controller.HasSynced() }

// Name is the resource's.
func (i *Informer[T]) Name() string { return i.name }

// Err is how the last request ended.
func (i *Informer[T]) Err() error {
	if e := i.err.Load(); e != nil {
		return *e
	}
	return nil
}

// Get finds an object; namespace is empty for cluster-wide kinds.
func (i *Informer[T]) Get(namespace, name string) (T, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	x, ok, _ := i.store.GetByKey(key)
	if !ok {
		var none T
		return none, false
	}
	return x.(T), true
}

// List gives everything seen, in no order.
func (i *Informer[T]) List() []T {
	items := i.store.List()
	out := make([]T, 0, len(items))
	for _, x := range items {
		if t, ok := x.(T); ok {
			out = append(out, t)
		}
	}
	return out
}
