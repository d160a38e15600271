// Package ipcache merges what is known about who is behind an address, and keeps the datapath's table equal to it.
package ipcache

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// Source of a statement about an address. Where two disagree, the higher one counts.
type Source uint8

// The sources, weakest first.
const (
	SourceCIDR Source = iota
	SourceEndpointObject
	SourceAnnouncement
	SourceRemoteNode
	SourceKubernetesAPI
	SourceLocalHost
	SourceLocalEndpoint
	sources
)

// Owner says in Kubernetes' words who is behind an address.
type Owner struct {
	// EndpointID of an endpoint of this node; 0 for others.
	EndpointID         uint32
	Namespace, PodName string
	// WorkloadName and WorkloadKind of the pod's owner, if known.
	WorkloadName, WorkloadKind string
	NodeName                   string
}

// Entry is one statement.
type Entry struct {
	datapath.IPEntry
	Owner Owner
	// Since is when an announcement came; zero for other sources.
	Since time.Time
}

type slot struct {
	entries [sources]*Entry
}

func (s *slot) best() *Entry {
	for i := len(s.entries) - 1; i >= 0; i-- {
		if s.entries[i] != nil {
			return s.entries[i]
		}
	}
	return nil
}

// Cache holds all statements. All methods are safe for concurrent use; changes reach the datapath before they return.
type Cache struct {
	// mu is held while the datapath is written, so that it sees changes in order.
	mu   sync.RWMutex
	all  map[netip.Prefix]*slot
	dp   datapath.Datapath
	live bool
	log  *slog.Logger
	// unwritten are prefixes that the datapath refused; they are tried again with the next change and by Retry.
	unwritten map[netip.Prefix]struct{}
	used      map[uint32]int
	version   atomic.Uint64
}

// Version grows after each change of what Lookup and Find say.
func (c *Cache) Version() uint64 { return c.version.Load() }

// New makes a cache that only remembers until Start.
func New(log *slog.Logger) *Cache {
	return &Cache{all: map[netip.Prefix]*slot{}, log: log, unwritten: map[netip.Prefix]struct{}{}, used: map[uint32]int{}}
}

// Start makes the datapath's table equal to what is known: what is missing is written, what is too much removed.
func (c *Cache) Start(ctx context.Context, dp datapath.Datapath) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dp, c.live = dp, true
	present, err := dp.IPs()
	if err != nil {
		return err
	}
	there := make(map[netip.Prefix]datapath.IPEntry, len(present))
	for _, e := range present {
		there[e.Prefix.Masked()] = e
	}
	var missing []datapath.IPEntry
	for prefix, s := range c.all {
		want := s.best().IPEntry
		if have, ok := there[prefix]; !ok || have != want {
			missing = append(missing, want)
		}
		delete(there, prefix)
	}
	var extra []netip.Prefix
	for prefix := range there {
		extra = append(extra, prefix)
	}
	return errors.Join(c.write(ctx, missing, nil), c.write(ctx, nil, extra))
}

// write tells the datapath; what it refuses is remembered.
func (c *Cache) write(ctx context.Context, upserts []datapath.IPEntry, deletes []netip.Prefix) error {
	if !c.live {
		return nil
	}
	var errs []error
	if len(upserts) > 0 {
		if err := c.dp.UpsertIP(ctx, upserts...); err != nil {
			errs = append(errs, err)
			for _, e := range upserts {
				c.unwritten[e.Prefix] = struct{}{}
			}
		}
	}
	if len(deletes) > 0 {
		if err := c.dp.DeleteIP(ctx, deletes...); err != nil {
			errs = append(errs, err)
			for _, p := range deletes {
				c.unwritten[p] = struct{}{}
			}
		}
	}
	return errors.Join(errs...)
}

// Retry writes again what the datapath refused; it returns how many are still unwritten.
func (c *Cache) Retry(ctx context.Context) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unwritten) == 0 {
		return 0, nil
	}
	var upserts []datapath.IPEntry
	var deletes []netip.Prefix
	for p := range c.unwritten {
		if s := c.all[p]; s != nil {
			upserts = append(upserts, s.best().IPEntry)
		} else {
			deletes = append(deletes, p)
		}
	}
	clear(c.unwritten)
	err := c.write(ctx, upserts, deletes)
	return len(c.unwritten), err
}

// Rewrite writes prefixes once more, whatever was written before.
func (c *Cache) Rewrite(ctx context.Context, prefixes ...netip.Prefix) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var upserts []datapath.IPEntry
	for _, p := range prefixes {
		if s := c.all[p.Masked()]; s != nil {
			upserts = append(upserts, s.best().IPEntry)
		}
	}
	return c.write(ctx, upserts, nil)
}

// Upsert adds or replaces a source's statement about a prefix.
func (c *Cache) Upsert(ctx context.Context, source Source, e Entry) error {
	e.Prefix = e.Prefix.Masked()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.all[e.Prefix]
	if s == nil {
		s = &slot{}
		c.all[e.Prefix] = s
	}
	before := s.best()
	if old := s.entries[source]; old != nil {
		c.release(old.Identity)
	}
	c.used[e.Identity]++
	s.entries[source] = &e
	c.version.Add(1)
	after := s.best()
	if before != nil && before.IPEntry == after.IPEntry {
		return nil
	}
	return c.write(ctx, []datapath.IPEntry{after.IPEntry}, nil)
}

func (c *Cache) release(identity uint32) {
	if c.used[identity]--; c.used[identity] == 0 {
		delete(c.used, identity)
	}
}

// Delete withdraws a source's statement. With owner given, only where the statement is about that pod: addresses are
// reused, and the news of a pod's end may come after that of its successor.
func (c *Cache) Delete(ctx context.Context, source Source, prefix netip.Prefix, owner *Owner) error {
	prefix = prefix.Masked()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.all[prefix]
	if s == nil || s.entries[source] == nil {
		return nil
	}
	old := s.entries[source]
	if owner != nil && (old.Owner.Namespace != owner.Namespace || old.Owner.PodName != owner.PodName) {
		return nil
	}
	before := s.best()
	s.entries[source] = nil
	c.version.Add(1)
	c.release(old.Identity)
	after := s.best()
	if after == nil {
		delete(c.all, prefix)
		return c.write(ctx, nil, []netip.Prefix{prefix})
	}
	if before.IPEntry == after.IPEntry {
		return nil
	}
	return c.write(ctx, []datapath.IPEntry{after.IPEntry}, nil)
}

// SweepAnnouncements withdraws announcements that came before a time and that no CiliumEndpoint has confirmed.
func (c *Cache) SweepAnnouncements(ctx context.Context, before time.Time) error {
	c.mu.Lock()
	var old []netip.Prefix
	for prefix, s := range c.all {
		if e := s.entries[SourceAnnouncement]; e != nil && e.Since.Before(before) {
			old = append(old, prefix)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, prefix := range old {
		errs = append(errs, c.Delete(ctx, SourceAnnouncement, prefix, nil))
	}
	return errors.Join(errs...)
}

// Lookup finds who is behind an address: the entry of exactly that address.
func (c *Cache) Lookup(address netip.Addr) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s := c.all[netip.PrefixFrom(address, address.BitLen())]; s != nil {
		return *s.best(), true
	}
	return Entry{}, false
}

// Find gives who is behind an address as the datapath finds it: the entry of the longest range around it.
func (c *Cache) Find(address netip.Addr) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for bits := address.BitLen(); bits >= 0; bits-- {
		if prefix, err := address.Prefix(bits); err == nil {
			if s := c.all[prefix]; s != nil {
				return *s.best(), true
			}
		}
	}
	return Entry{}, false
}

// Get gives the statement of a source about a prefix.
func (c *Cache) Get(source Source, prefix netip.Prefix) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s := c.all[prefix.Masked()]; s != nil && s.entries[source] != nil {
		return *s.entries[source], true
	}
	return Entry{}, false
}

// Uses tells whether any statement names the identity.
func (c *Cache) Uses(identity uint32) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.used[identity] > 0
}

// Entries lists what counts, in no order.
func (c *Cache) Entries() []Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Entry, 0, len(c.all))
	for _, s := range c.all {
		out = append(out, *s.best())
	}
	return out
}
