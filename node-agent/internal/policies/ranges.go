package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/statefile"
	"fairlead.dev/node-agent/policy"
)

// numbers gives address ranges and nodes their node-local identities. A prefix keeps its number over a restart of the agent:
// what is in the kernel from before, lines and ipcache, then means the same as what is written anew.
type numbers struct {
	first, last, next policy.NumericIdentity
	inUse             map[policy.NumericIdentity]netip.Prefix
	// before are the numbers of before the restart that nobody has asked for yet.
	before map[netip.Prefix]policy.NumericIdentity
	held   map[policy.NumericIdentity]struct{}
}

func newNumbers(first, last policy.NumericIdentity) *numbers {
	return &numbers{first: first, last: last, next: first, inUse: map[policy.NumericIdentity]netip.Prefix{},
		before: map[netip.Prefix]policy.NumericIdentity{}, held: map[policy.NumericIdentity]struct{}{}}
}

func (n *numbers) restore(prefix netip.Prefix, id policy.NumericIdentity) {
	if id < n.first || id > n.last {
		return
	}
	n.before[prefix], n.held[id] = id, struct{}{}
}

// forget lets numbers of before the restart be used for others.
func (n *numbers) forget() {
	clear(n.before)
	clear(n.held)
}

func (n *numbers) take(prefix netip.Prefix) (policy.NumericIdentity, error) {
	if id, ok := n.before[prefix]; ok {
		delete(n.before, prefix)
		if _, taken := n.inUse[id]; !taken {
			n.inUse[id] = prefix
			return id, nil
		}
	}
	for range n.last - n.first + 1 {
		id := n.next
		if n.next++; n.next > n.last {
			n.next = n.first
		}
		_, taken := n.inUse[id]
		if _, held := n.held[id]; !taken && !held {
			n.inUse[id] = prefix
			return id, nil
		}
	}
	return 0, fmt.Errorf("numbering %s: all identities from %d to %d are in use", prefix, n.first, n.last)
}

func (n *numbers) release(id policy.NumericIdentity) { delete(n.inUse, id) }

// Restore takes over which identities stood for which ranges and nodes before a restart: from the checkpoint, which knows
// those too that a stronger statement hides in the ipcache, and from the pinned ipcache, which is what packets are judged
// by and therefore right where the two differ. To be called before anything else.
func (m *Manager) Restore(checkpoint string, entries []datapath.IPEntry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkpoint = checkpoint
	saved := map[netip.Prefix]policy.NumericIdentity{}
	text, err := os.ReadFile(checkpoint)
	if err == nil {
		err = json.Unmarshal(text, &saved)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	byNumber := map[policy.NumericIdentity]netip.Prefix{}
	for prefix, id := range saved {
		byNumber[id] = prefix
	}
	for _, e := range entries {
		id := policy.NumericIdentity(e.Identity)
		if other, ok := byNumber[id]; ok && other != e.Prefix {
			delete(saved, other)
		}
		if id.IsLocal() || (id >= policy.IdentityNodeMin && id <= policy.IdentityNodeMax) {
			saved[e.Prefix] = id
		}
	}
	for prefix, id := range saved {
		m.rangeNumbers.restore(prefix, id)
		m.nodeNumbers.restore(prefix, id)
	}
	if err != nil {
		err = fmt.Errorf("reading the identities of before the restart: %w", err)
	}
	return errors.Join(err, m.restoreBlocks())
}

// save writes the checkpoint where something changed since the last one.
func (m *Manager) save() error {
	if !m.unsaved || m.checkpoint == "" {
		return nil
	}
	all := make(map[netip.Prefix]policy.NumericIdentity, len(m.prefixes))
	for prefix, id := range m.prefixes {
		all[prefix] = id
	}
	for id, prefix := range m.nodeNumbers.inUse {
		all[prefix] = id
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = statefile.Write(m.checkpoint, text)
	}
	if err != nil {
		return fmt.Errorf("saving the identities of ranges: %w", err)
	}
	m.unsaved = false
	return nil
}

func (m *Manager) addPrefix(ctx context.Context, prefix netip.Prefix) error {
	if _, ok := m.prefixes[prefix]; ok {
		return nil
	}
	id, err := m.rangeNumbers.take(prefix)
	if err != nil {
		return err
	}
	m.prefixes[prefix], m.unsaved = id, true
	return errors.Join(m.apply(ctx, m.engine.AddIdentity(id, m.labelsOf(prefix))),
		m.cache.Upsert(ctx, ipcache.SourceCIDR, ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: prefix, Identity: uint32(id)}}))
}

// prunePrefixes withdraws the ranges that no policy in force names any more.
func (m *Manager) prunePrefixes(ctx context.Context) error {
	wanted := m.engine.Prefixes()
	var errs []error
	for prefix, id := range m.prefixes {
		if _, ok := slices.BinarySearchFunc(wanted, prefix, netip.Prefix.Compare); ok {
			continue
		}
		if len(m.names[prefix]) > 0 || m.isAPIServer(prefix) || slices.Contains(m.nodes.formerlyOutside, prefix) {
			continue
		}
		delete(m.prefixes, prefix)
		m.rangeNumbers.release(id)
		m.unsaved = true
		errs = append(errs, m.cache.Delete(ctx, ipcache.SourceCIDR, prefix, nil), m.apply(ctx, m.engine.RemoveIdentity(id)))
	}
	return errors.Join(errs...)
}
