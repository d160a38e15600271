package endpoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/datapath/datapathtest"
	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipam"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/policy"
)

type fakeCluster struct {
	mu         sync.Mutex
	pods       map[string]*corev1.Pod
	namespaces map[string]map[string]string
	published  map[string]Endpoint
	announced  []Endpoint
	// seen is what the datapath held when an endpoint was announced.
	seen      func()
	publishes error
}

func (f *fakeCluster) Pod(_ context.Context, namespace, name, _ string) (*corev1.Pod, error) {
	if p := f.pods[namespace+"/"+name]; p != nil {
		return p, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
}

func (f *fakeCluster) NamespaceLabels(_ context.Context, n string) (map[string]string, error) {
	return f.namespaces[n], nil
}

func (f *fakeCluster) Publish(_ context.Context, e Endpoint, _ [2]bool, _ policies.Mode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.publishes != nil {
		return f.publishes
	}
	f.published[e.Pod()] = e
	return nil
}

func (f *fakeCluster) Withdraw(_ context.Context, e Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.published, e.Pod())
	return nil
}

func (f *fakeCluster) Announce(_ context.Context, e Endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.announced = append(f.announced, e)
	if f.seen != nil {
		f.seen()
	}
}

// noAPI creates every identity that is asked for.
type noAPI struct{}

func (noAPI) Create(context.Context, *ciliumv2.CiliumIdentity) error { return nil }
func (noAPI) Get(context.Context, string) (*ciliumv2.CiliumIdentity, error) {
	return nil, errors.New("not reached")
}

type node struct {
	*Manager
	dp       *datapathtest.Fake
	cluster  *fakeCluster
	policies *policies.Manager
	cache    *ipcache.Cache
	removed  []string
}

// start makes a node; with dp and directory of an earlier one it is that one's restart. The news of `known` policies come before
// Start, as informers' first lists do.
func start(t *testing.T, dp *datapathtest.Fake, directory string, known ...policy.Policy) *node {
	t.Helper()
	pool, err := ipam.New(netip.MustParsePrefix("10.77.1.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dp: dp, cluster: &fakeCluster{pods: map[string]*corev1.Pod{}, namespaces: map[string]map[string]string{"a": {"team": "x"}}, published: map[string]Endpoint{}}}
	n.cache = ipcache.New(slog.Default())
	n.policies = policies.New(dp, n.cache, policies.ModeDefault, slog.Default())
	n.Manager = New(Options{Datapath: dp, Pool: pool, Registry: identities.NewRegistry(noAPI{}, slog.Default()), Policies: n.policies, Cache: n.cache,
		Cluster: n.cluster, StateDirectory: directory, NodeName: "node1", Mode: policies.ModeDefault, Log: slog.Default(),
		RemoveLink: func(name string) error { n.removed = append(n.removed, name); return nil }})
	ctx := context.Background()
	if err := n.Restore(ctx); err != nil {
		t.Fatal(err)
	}
	for _, p := range known {
		if err := n.policies.Upsert(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(n.policies.Start(ctx), n.cache.Start(ctx, dp)); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) pod(name string, labels map[string]string) Request {
	n.cluster.pods["a/"+name] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID("uid-" + name), Labels: labels},
		Spec: corev1.PodSpec{ServiceAccountName: "default", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "HTTP", ContainerPort: 80}}}}}}
	return Request{ContainerID: "c-" + name, NetworkInterface: "eth0", Namespace: "a", PodName: name}
}

func (n *node) add(t *testing.T, r Request) Endpoint {
	t.Helper()
	if _, err := n.Reserve(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	e, err := n.Attach(context.Background(), r, podlink.Details{Interface: "fl-" + r.PodName, InterfaceIndex: 7})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func rule(t *testing.T, document string) policy.Policy {
	t.Helper()
	p, problems := policy.Parse(policy.KindAuto, []byte(document))
	if !p.Valid() {
		t.Fatal(problems)
	}
	return p
}

const webFromShips = `{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"web","namespace":"a"},
"spec":{"endpointSelector":{"matchLabels":{"app":"web"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"ship"}}]}]}}`

func TestPolicyIsThereBeforeTheEndpointAndTheEndpointBeforeItsAnnouncement(t *testing.T) {
	n := start(t, &datapathtest.Fake{}, t.TempDir())
	if err := n.policies.Upsert(context.Background(), rule(t, webFromShips)); err != nil {
		t.Fatal(err)
	}
	before := len(n.dp.Calls())
	n.cluster.seen = func() {
		if list, _ := n.dp.Endpoints(); len(list) != 1 || !list[0].PolicyIngress {
			t.Errorf("announced before it was published: %+v", list)
		}
	}
	e := n.add(t, n.pod("web", map[string]string{"app": "web"}))
	n.cluster.seen = nil
	calls := n.dp.Calls()[before:]
	if want := []string{"ApplyPolicy", "UpsertEndpoint", "UpsertIP"}; !slices.Equal(calls, want) {
		t.Fatalf("got %v, want %v", calls, want)
	}
	if len(n.cluster.announced) != 1 || n.cluster.published["a/web"].Identity != e.Identity {
		t.Fatalf("announced %v, published %v", n.cluster.announced, n.cluster.published)
	}
	if !slices.Contains(e.Labels, "k8s:io.cilium.k8s.namespace.labels.team=x") || !slices.Contains(e.Labels, "k8s:app=web") {
		t.Fatalf("labels %v", e.Labels)
	}
	if e.Ports["http"][0].Port != 80 {
		t.Fatalf("ports %v", e.Ports)
	}
	lines, _ := n.dp.Policy(e.ID)
	if len(lines) != 1 { // the node itself; there is no ship yet
		t.Fatalf("lines %+v", lines)
	}
	ship := n.add(t, n.pod("ship", map[string]string{"app": "ship"}))
	lines, _ = n.dp.Policy(e.ID)
	if len(lines) != 2 || !slices.ContainsFunc(lines, func(l policyEntry) bool { return l.Identity == uint32(ship.Identity) }) {
		t.Fatalf("lines %+v", lines)
	}
}

func TestRestartFindsTheSameEndpoints(t *testing.T) {
	dp, directory := &datapathtest.Fake{}, t.TempDir()
	n := start(t, dp, directory)
	ctx := context.Background()
	if err := n.policies.Upsert(ctx, rule(t, webFromShips)); err != nil {
		t.Fatal(err)
	}
	n.add(t, n.pod("web", map[string]string{"app": "web"}))
	n.add(t, n.pod("ship", map[string]string{"app": "ship"}))
	want := n.List()
	lines, _ := dp.Policy(want[0].ID)

	// Killed. Meanwhile: an endpoint whose interface went, and one in the kernel that no file knows.
	gone := want[1]
	gone.ID, gone.ContainerID, gone.Link.Interface = 9, "c-gone", "fl-gone"
	if err := n.store.save(gone); err != nil {
		t.Fatal(err)
	}
	stray := want[0].datapath([2]bool{}, false)
	stray.ID = 77
	_ = dp.UpsertEndpoint(ctx, stray)
	calls := len(dp.Calls())

	n2 := start(t, dp, directory, rule(t, webFromShips))
	if got := n2.List(); len(got) != 2 || got[0].ID != want[0].ID || got[0].Identity != want[0].Identity || got[1].Address != want[1].Address {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	after, _ := dp.Policy(want[0].ID)
	if !slices.Equal(lines, after) {
		t.Fatalf("policy changed over the restart: %+v, then %+v", lines, after)
	}
	if slices.Contains(dp.Calls()[calls:], "ApplyPolicy") {
		t.Fatalf("lines were written again: %v", dp.Calls()[calls:])
	}
	list, _ := dp.Endpoints()
	if len(list) != 2 {
		t.Fatalf("the kernel has %+v", list)
	}
	if !slices.Contains(n2.removed, gone.Link.Interface) {
		t.Fatalf("removed %v", n2.removed)
	}
	if e := n2.add(t, n2.pod("new", nil)); e.Address == want[0].Address || e.Address == want[1].Address || e.ID == want[0].ID || e.ID == want[1].ID {
		t.Fatalf("a new endpoint got what another has: %+v", e)
	}
}

func TestChangedLabelsMakeAnotherIdentity(t *testing.T) {
	n := start(t, &datapathtest.Fake{}, t.TempDir())
	ctx := context.Background()
	if err := n.policies.Upsert(ctx, rule(t, webFromShips)); err != nil {
		t.Fatal(err)
	}
	e := n.add(t, n.pod("web", map[string]string{"app": "db"}))
	n.pod("web", map[string]string{"app": "web"})
	if err := n.Refresh(ctx, "a", "web"); err != nil {
		t.Fatal(err)
	}
	list, _ := n.dp.Endpoints()
	if list[0].Identity == uint32(e.Identity) || !list[0].PolicyIngress {
		t.Fatalf("got %+v", list[0])
	}
	if ips, _ := n.dp.IPs(); ips[0].Identity != list[0].Identity {
		t.Fatalf("the ipcache has %+v", ips)
	}
	if n.cluster.published["a/web"].Identity != policy.NumericIdentity(list[0].Identity) || len(n.cluster.announced) != 2 {
		t.Fatal("the cluster was not told")
	}
}

func TestNothingLeaks(t *testing.T) {
	directory := t.TempDir()
	n := start(t, &datapathtest.Fake{}, directory)
	ctx := context.Background()
	_ = n.policies.Upsert(ctx, rule(t, webFromShips))
	var wait sync.WaitGroup
	requests := make([]Request, 60)
	for i := range requests {
		requests[i] = n.pod(fmt.Sprintf("p%d", i), map[string]string{"app": "web"})
	}
	for i, r := range requests {
		wait.Go(func() {
			if _, err := n.Reserve(ctx, r); err != nil {
				t.Error(err)
				return
			}
			if i%3 != 0 { // every third is given up half way
				if _, err := n.Attach(ctx, r, podlink.Details{Interface: "fl", InterfaceIndex: i}); err != nil {
					t.Error(err)
				}
			}
			if err := n.Detach(ctx, r.ContainerID, r.NetworkInterface); err != nil {
				t.Error(err)
			}
			if err := n.Detach(ctx, r.ContainerID, r.NetworkInterface); err != nil {
				t.Error("a second DEL:", err)
			}
		})
	}
	wait.Wait()
	endpoints, _ := n.dp.Endpoints()
	ips, _ := n.dp.IPs()
	files, _ := n.store.load()
	if len(endpoints)+len(ips)+len(files)+len(n.List())+len(n.cluster.published) != 0 || len(n.Pool.Allocations()) != 1 {
		t.Fatalf("left: %v %v %v %v %v %v", endpoints, ips, files, n.List(), n.cluster.published, n.Pool.Allocations())
	}
	for id := range 61 {
		if lines, _ := n.dp.Policy(endpointID(id)); len(lines) > 0 {
			t.Fatalf("policy lines of endpoint %d: %v", id, lines)
		}
	}
}

func TestFailures(t *testing.T) {
	ctx := context.Background()
	t.Run("no such pod", func(t *testing.T) {
		n := start(t, &datapathtest.Fake{}, t.TempDir())
		if _, err := n.Reserve(ctx, Request{ContainerID: "c", NetworkInterface: "eth0", Namespace: "a", PodName: "x"}); err == nil || !strings.Contains(err.Error(), "a/x") {
			t.Fatalf("got %v", err)
		}
		if len(n.Pool.Allocations()) != 1 {
			t.Fatal("an address leaked")
		}
	})
	t.Run("the kernel refuses policy lines", func(t *testing.T) {
		n := start(t, &datapathtest.Fake{}, t.TempDir())
		_ = n.policies.Upsert(ctx, rule(t, webFromShips))
		n.dp.Fail("ApplyPolicy", errors.New("map is full"))
		if _, err := n.Reserve(ctx, n.pod("web", map[string]string{"app": "web"})); err == nil {
			t.Fatal("the error was swallowed")
		}
		if len(n.Pool.Allocations()) != 1 || len(n.List()) != 0 {
			t.Fatal("the reservation leaked")
		}
	})
	t.Run("the API server is away", func(t *testing.T) {
		n := start(t, &datapathtest.Fake{}, t.TempDir())
		n.cluster.publishes = errors.New("connection refused")
		n.add(t, n.pod("web", nil))
		if left := n.Retry(ctx); left != 1 {
			t.Fatalf("%d left", left)
		}
		n.cluster.publishes = nil
		if left := n.Retry(ctx); left != 0 || len(n.cluster.published) != 1 {
			t.Fatalf("%d left", left)
		}
	})
}

func TestCiliumEndpointIsWrittenAgain(t *testing.T) {
	ctx := context.Background()
	n := start(t, &datapathtest.Fake{}, t.TempDir())
	r := n.pod("web", map[string]string{"app": "web"})
	e := n.add(t, r)
	written := func() bool { _, ok := n.cluster.published["a/web"]; return ok }
	delete(n.cluster.published, "a/web")
	n.Again(e.ID)
	if left := n.Retry(ctx); left != 0 || !written() {
		t.Fatalf("asked for: %d left", left)
	}
	delete(n.cluster.published, "a/web")
	if err := n.setEnforced(ctx, e.ID, [2]bool{true, true}); err != nil {
		t.Fatal(err)
	}
	if left := n.Retry(ctx); left != 0 || !written() {
		t.Fatalf("enforcement changed: %d left", left)
	}
	if err := n.Detach(ctx, r.ContainerID, ""); err != nil {
		t.Fatal(err)
	}
	n.cluster.publishes = errors.New("no answer")
	n.publish(ctx, e)
	if left := n.Retry(ctx); left != 0 {
		t.Fatalf("%d left of a removed endpoint", left)
	}
}
