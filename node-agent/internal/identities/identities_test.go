package identities

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/policy"
)

type fakeAPI struct {
	mu      sync.Mutex
	objects map[string]*ciliumv2.CiliumIdentity
}

func (f *fakeAPI) Create(_ context.Context, i *ciliumv2.CiliumIdentity) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects[i.Name] != nil {
		return errors.NewAlreadyExists(schema.GroupResource{Resource: "ciliumidentities"}, i.Name)
	}
	if f.objects == nil {
		f.objects = map[string]*ciliumv2.CiliumIdentity{}
	}
	f.objects[i.Name] = i.DeepCopy()
	return nil
}

func (f *fakeAPI) Get(_ context.Context, name string) (*ciliumv2.CiliumIdentity, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects[name] == nil {
		return nil, errors.NewNotFound(schema.GroupResource{Resource: "ciliumidentities"}, name)
	}
	return f.objects[name].DeepCopy(), nil
}

func labels(t *testing.T, texts ...string) policy.Labels {
	t.Helper()
	l, err := policy.ParseLabels(texts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestManyAgentsAgree(t *testing.T) {
	api := &fakeAPI{}
	const agents, sets = 5, 40
	got := make([][sets]policy.NumericIdentity, agents)
	var wait sync.WaitGroup
	for a := range agents {
		wait.Go(func() {
			r := NewRegistry(api, slog.Default())
			for s := range sets {
				id, err := r.Allocate(context.Background(), labels(t, fmt.Sprintf("k8s:app=a%d", s), "k8s:io.kubernetes.pod.namespace=n"))
				if err != nil {
					t.Error(err)
				}
				got[a][s] = id
			}
		})
	}
	wait.Wait()
	seen := map[policy.NumericIdentity]bool{}
	for s := range sets {
		for a := range agents {
			if got[a][s] != got[0][s] {
				t.Fatalf("agents disagree: %d and %d", got[a][s], got[0][s])
			}
		}
		if seen[got[0][s]] || got[0][s] < policy.IdentityUserMin || got[0][s] > policy.IdentityUserMax {
			t.Fatalf("identity %d", got[0][s])
		}
		seen[got[0][s]] = true
	}
	if len(api.objects) != sets {
		t.Fatalf("%d objects for %d sets of labels", len(api.objects), sets)
	}
}

func TestTakenNumberMovesOn(t *testing.T) {
	mine := labels(t, "k8s:app=web")
	first := candidate(mine.String(), 0)
	api := &fakeAPI{objects: map[string]*ciliumv2.CiliumIdentity{}}
	name := strconv.Itoa(int(first))
	api.objects[name] = &ciliumv2.CiliumIdentity{ObjectMeta: metav1.ObjectMeta{Name: name}, SecurityLabels: map[string]string{"k8s:app": "other"}}
	r := NewRegistry(api, slog.Default())
	id, err := r.Allocate(context.Background(), mine)
	if err != nil || id != candidate(mine.String(), 1) {
		t.Fatalf("got %d, %v", id, err)
	}
	if again, _ := r.Allocate(context.Background(), mine); again != id {
		t.Fatalf("got %d, then %d", id, again)
	}
}

func TestCollectorWaits(t *testing.T) {
	c := Collector{Grace: time.Minute}
	all := []*ciliumv2.CiliumIdentity{{ObjectMeta: metav1.ObjectMeta{Name: "300"}}, {ObjectMeta: metav1.ObjectMeta{Name: "301"}}}
	used := map[string]struct{}{"300": {}}
	now := time.Unix(0, 0)
	if got := c.Collect(now, all, used); got != nil {
		t.Fatalf("collected at once: %v", got)
	}
	// Used in between: the time starts anew.
	c.Collect(now.Add(30*time.Second), all, map[string]struct{}{"301": {}})
	c.Collect(now.Add(40*time.Second), all, used)
	if got := c.Collect(now.Add(70*time.Second), all, used); got != nil {
		t.Fatalf("collected too early: %v", got)
	}
	if got := c.Collect(now.Add(101*time.Second), all, used); len(got) != 1 || got[0].Name != "301" {
		t.Fatalf("got %v", got)
	}
}

// What is asked for again and again is the same slice, made for those that are asked for alone.
func TestTextsAreMadeWhenAsked(t *testing.T) {
	r := NewRegistry(&fakeAPI{}, nil)
	for n := range 1000 {
		r.Learn(policy.NumericIdentity(1000+n), labels(t, fmt.Sprintf("k8s:app=a%d", n)))
	}
	if len(r.texts) != 0 {
		t.Errorf("texts of %d identities that nobody asked for", len(r.texts))
	}
	first, again := r.Texts(1005), r.Texts(1005)
	if len(first) != 1 || first[0] != "k8s:app=a5" || &first[0] != &again[0] {
		t.Errorf("got %v and %v", first, again)
	}
	if got := r.Texts(99999); got != nil {
		t.Errorf("texts of an unknown identity: %v", got)
	}
	if got := r.Texts(policy.IdentityWorld); len(got) != 1 || got[0] != "reserved:world" {
		t.Errorf("the world is %v", got)
	}
	r.Learn(1005, labels(t, "k8s:app=other"))
	if got := r.Texts(1005); len(got) != 1 || got[0] != "k8s:app=other" {
		t.Errorf("after a change: %v", got)
	}
	r.Forget(1005)
	if got := r.Texts(1005); got != nil {
		t.Errorf("after its end: %v", got)
	}
}

// Two sets of labels whose hashes are equal cost a question to the API server and no mistake.
func TestAllocateSurvivesEqualHashes(t *testing.T) {
	api := &fakeAPI{}
	r := NewRegistry(api, nil)
	a, b := labels(t, "k8s:app=a"), labels(t, "k8s:app=b")
	first, err := r.Allocate(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	r.byLabels[r.hash(b)] = first
	second, err := r.Allocate(context.Background(), b)
	if err != nil || second == first {
		t.Fatalf("labels of another number were taken for its own: %d, %v", second, err)
	}
	r.byLabels[r.hash(a)] = second
	if again, err := r.Allocate(context.Background(), a); err != nil || again != first {
		t.Errorf("got %d, %v; want %d", again, err, first)
	}
}

func TestReleaseKeepsWhatIsAskedFor(t *testing.T) {
	i := &ciliumv2.CiliumIdentity{ObjectMeta: metav1.ObjectMeta{Name: "4711", UID: "u", ResourceVersion: "7", Labels: map[string]string{"a": "b"}},
		SecurityLabels: map[string]string{"k8s:app": "a"}}
	Release(i)
	if id, ok := IDOf(i); !ok || id != 4711 || i.UID != "u" || i.ResourceVersion != "7" || i.SecurityLabels != nil || i.Labels != nil {
		t.Errorf("got %+v", i)
	}
}
