// Package identities numbers sets of labels. A number is claimed by creating a CiliumIdentity of that name: the API server
// decides who was first, so that there is neither a leader nor a race.
package identities

import (
	"context"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/policy"
)

// Resource of CiliumIdentity.
var Resource = kubernetes.Resource{Group: ciliumv2.GroupVersion, Name: "ciliumidentities"}

// API is what the allocator needs of the API server.
type API interface {
	Create(ctx context.Context, identity *ciliumv2.CiliumIdentity) error
	Get(ctx context.Context, name string) (*ciliumv2.CiliumIdentity, error)
}

// ClientAPI is the API server itself.
type ClientAPI struct{ Client *kubernetes.Client }

// Create implements API.
func (c ClientAPI) Create(ctx context.Context, identity *ciliumv2.CiliumIdentity) error {
	return c.Client.Create(ctx, Resource, identity)
}

// Get implements API.
func (c ClientAPI) Get(ctx context.Context, name string) (*ciliumv2.CiliumIdentity, error) {
	var out ciliumv2.CiliumIdentity
	return &out, c.Client.Get(ctx, Resource, name, &out)
}

// Registry knows the identities of the cluster. All methods are safe for concurrent use.
type Registry struct {
	mu sync.RWMutex
	// byLabels finds a number by the hash of its labels. Should two sets of labels ever share a hash, one of them is not
	// found; Allocate then finds it by its object.
	byLabels map[uint64]policy.NumericIdentity
	seed     maphash.Seed
	byID     map[policy.NumericIdentity]policy.Labels
	// texts are the labels as flows show them, of those that were asked for: most of a cluster's identities never meet this
	// node. Kept so that the same slice is handed out every time.
	texts   map[policy.NumericIdentity][]string
	version atomic.Uint64
	api     API
	log     *slog.Logger
}

// Version grows after each change of what Labels and Texts say.
func (r *Registry) Version() uint64 { return r.version.Load() }

// NewRegistry makes a registry that knows the reserved identities.
func NewRegistry(api API, log *slog.Logger) *Registry {
	r := &Registry{api: api, log: log, byLabels: map[uint64]policy.NumericIdentity{}, seed: maphash.MakeSeed(),
		byID: map[policy.NumericIdentity]policy.Labels{}, texts: map[policy.NumericIdentity][]string{}}
	for _, i := range policy.ReservedIdentities() {
		r.byID[i.ID] = i.Labels
	}
	return r
}

// IDOf gives the number of a CiliumIdentity; ok is false for one whose name is none.
func IDOf(i *ciliumv2.CiliumIdentity) (id policy.NumericIdentity, ok bool) {
	n, err := strconv.ParseUint(i.Name, 10, 32)
	if err != nil || n < uint64(policy.IdentityUserMin) {
		return 0, false
	}
	return policy.NumericIdentity(n), true
}

// LabelsOf reads a CiliumIdentity; ok is as IDOf's.
func LabelsOf(i *ciliumv2.CiliumIdentity) (id policy.NumericIdentity, labels policy.Labels, ok bool) {
	if id, ok = IDOf(i); !ok {
		return 0, nil, false
	}
	return id, policy.LabelsFromMap(i.SecurityLabels), true
}

// Release takes from a CiliumIdentity whose labels were learned all but its name, UID and version: there are thousands,
// and a registry keeps what they say.
func Release(i *ciliumv2.CiliumIdentity) {
	i.SecurityLabels, i.Labels, i.Annotations, i.OwnerReferences, i.Finalizers = nil, nil, nil, nil, nil
}

// Learn remembers an identity; it tells whether that is news.
func (r *Registry) Learn(id policy.NumericIdentity, labels policy.Labels) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.byID[id]; ok {
		if slices.Equal(old, labels) {
			return false
		}
		delete(r.byLabels, r.hash(old))
	}
	r.byID[id] = labels
	delete(r.texts, id)
	r.version.Add(1)
	// Two numbers for the same labels can be there for a moment; the lower one is used for new endpoints everywhere.
	hash := r.hash(labels)
	if other, ok := r.byLabels[hash]; !ok || id < other {
		r.byLabels[hash] = id
	}
	return true
}

func (r *Registry) hash(labels policy.Labels) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	for _, l := range labels {
		for _, part := range [...]string{l.Source, l.Key, l.Value} {
			h.WriteString(part)
			h.WriteByte(0)
		}
	}
	return h.Sum64()
}

// Forget is the reverse of Learn.
func (r *Registry) Forget(id policy.NumericIdentity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if labels, ok := r.byID[id]; ok && !id.IsReserved() {
		if hash := r.hash(labels); r.byLabels[hash] == id {
			delete(r.byLabels, hash)
		}
		delete(r.byID, id)
		delete(r.texts, id)
		r.version.Add(1)
	}
}

// Labels gives the labels of an identity.
func (r *Registry) Labels(id policy.NumericIdentity) (policy.Labels, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	l, ok := r.byID[id]
	return l, ok
}

// Texts gives the labels of an identity as source:key=value: always the same slice, which nobody may change.
func (r *Registry) Texts(id policy.NumericIdentity) []string {
	r.mu.RLock()
	texts, known := r.texts[id]
	r.mu.RUnlock()
	if known {
		return texts
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	labels, there := r.byID[id]
	if texts, known = r.texts[id]; known || !there {
		return texts
	}
	texts = labels.Strings()
	r.texts[id] = texts
	return texts
}

// All lists what is known, in no order.
func (r *Registry) All() []policy.Identity {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]policy.Identity, 0, len(r.byID))
	for id, labels := range r.byID {
		out = append(out, policy.Identity{ID: id, Labels: labels})
	}
	return out
}

// Count is how many identities are known.
func (r *Registry) Count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.byID)
}

// probes is how many numbers are tried; the range of 65,280 would have to be nearly full for that many to be taken.
const probes = 256

// candidate is the n-th number to try for labels: a hash, and then the numbers after it.
func candidate(text string, n int) policy.NumericIdentity {
	h := fnv.New32a()
	h.Write([]byte(text))
	span := uint32(policy.IdentityUserMax-policy.IdentityUserMin) + 1
	return policy.IdentityUserMin + policy.NumericIdentity((h.Sum32()+uint32(n))%span)
}

// Allocate gives the identity of labels, creating it where it does not exist. Every agent walks the same numbers in the
// same order, and takes the first that is free or that has these labels.
func (r *Registry) Allocate(ctx context.Context, labels policy.Labels) (policy.NumericIdentity, error) {
	text := labels.String()
	r.mu.RLock()
	id, known := r.byLabels[r.hash(labels)]
	known = known && slices.Equal(r.byID[id], labels)
	r.mu.RUnlock()
	if known {
		return id, nil
	}
	for n := range probes {
		id := candidate(text, n)
		if other, taken := r.Labels(id); taken && other.String() != text {
			continue
		}
		err := r.claim(ctx, id, labels)
		if err == nil {
			r.Learn(id, labels)
			return id, nil
		}
		if !errors.IsAlreadyExists(err) {
			return 0, fmt.Errorf("creating identity %d for %s: %w", id, text, err)
		}
	}
	return 0, fmt.Errorf("no identity is free for %s: %d numbers in a row are taken; delete unused CiliumIdentities", text, probes)
}

// claim creates the object; AlreadyExists says that it stands for other labels.
func (r *Registry) claim(ctx context.Context, id policy.NumericIdentity, labels policy.Labels) error {
	name := strconv.FormatUint(uint64(id), 10)
	object := &ciliumv2.CiliumIdentity{ObjectMeta: metav1.ObjectMeta{Name: name}, SecurityLabels: labels.Map()}
	if namespace, ok := labels.Get(policy.LabelNamespace); ok {
		// The printed column "Namespace" of the definition.
		object.Labels = map[string]string{policy.LabelNamespace: namespace}
	}
	err := r.api.Create(ctx, object)
	if !errors.IsAlreadyExists(err) {
		return err
	}
	have, getErr := r.api.Get(ctx, name)
	if errors.IsNotFound(getErr) {
		// Collected at this very moment; the caller's next attempt creates it.
		return r.api.Create(ctx, object)
	}
	if getErr != nil {
		return getErr
	}
	if policy.LabelsFromMap(have.SecurityLabels).String() == labels.String() {
		return nil
	}
	return err
}

// Collector finds identities that nobody has used for a while.
type Collector struct {
	Grace  time.Duration
	unused map[string]time.Time
}

// Collect takes all identities and those in use, and gives the objects to delete.
func (c *Collector) Collect(now time.Time, all []*ciliumv2.CiliumIdentity, used map[string]struct{}) []*ciliumv2.CiliumIdentity {
	if c.unused == nil {
		c.unused = map[string]time.Time{}
	}
	var out []*ciliumv2.CiliumIdentity
	present := make(map[string]struct{}, len(all))
	for _, i := range all {
		present[i.Name] = struct{}{}
		if _, ok := used[i.Name]; ok {
			delete(c.unused, i.Name)
			continue
		}
		since, ok := c.unused[i.Name]
		if !ok {
			c.unused[i.Name] = now
			continue
		}
		if now.Sub(since) >= c.Grace {
			out = append(out, i)
		}
	}
	for name := range c.unused {
		if _, ok := present[name]; !ok {
			delete(c.unused, name)
		}
	}
	return out
}
