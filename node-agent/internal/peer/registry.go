// Package peer tells Hubble clients which nodes serve flows, as Hubble's peer service does.
package peer

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Port of the agent's mTLS listener.
const Port = 4244

// DefaultCluster is the name of a cluster that has none; it is left out of peers' names.
const DefaultCluster = "default"

// Peer is another agent, or this one.
type Peer struct {
	// Name is "cluster/node", or "node" in the cluster that is called default.
	Name string
	// Address is "address:port" of the mTLS listener.
	Address string
	// ServerName is what its certificate is checked against; empty means no TLS.
	ServerName string
}

// ServerName of a node's certificate in Hubble's convention, e.g. "node-1.default.hubble-grpc.cilium.io".
func ServerName(node, cluster string) string {
	if cluster == "" {
		cluster = DefaultCluster
	}
	return strings.ToLower(strings.ReplaceAll(node, ".", "-")+"."+strings.ReplaceAll(cluster, ".", "-")) +
		".hubble-grpc.cilium.io"
}

// ForNode describes the agent of a node.
func ForNode(node, cluster string, address netip.Addr) Peer {
	name := node
	if cluster != "" && cluster != DefaultCluster {
		name = cluster + "/" + node
	}
	return Peer{
		Name:       name,
		Address:    netip.AddrPortFrom(address, Port).String(),
		ServerName: ServerName(node, cluster),
	}
}

// Registry is the set of known peers. The nodes component feeds it; servers watch it. The zero value is ready to use.
type Registry struct {
	mu      sync.Mutex
	peers   map[string]Peer
	changed chan struct{}
}

// Upsert adds a peer or replaces the one of the same name.
func (r *Registry) Upsert(p Peer) {
	r.update(func() bool {
		if known, ok := r.peers[p.Name]; ok && known == p {
			return false
		}
		r.peers[p.Name] = p
		return true
	})
}

// Delete forgets a peer.
func (r *Registry) Delete(name string) {
	r.update(func() bool {
		_, known := r.peers[name]
		delete(r.peers, name)
		return known
	})
}

// Set makes the peers exactly those given.
func (r *Registry) Set(peers []Peer) {
	wanted := make(map[string]Peer, len(peers))
	for _, p := range peers {
		wanted[p.Name] = p
	}
	r.update(func() bool {
		if maps.Equal(wanted, r.peers) {
			return false
		}
		r.peers = wanted
		return true
	})
}

func (r *Registry) update(change func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers == nil {
		r.peers = map[string]Peer{}
	}
	if !change() {
		return
	}
	if r.changed != nil {
		close(r.changed)
	}
	r.changed = make(chan struct{})
}

// Peers sorted by name.
func (r *Registry) Peers() []Peer {
	peers, _ := r.watch()
	return peers
}

// watch gives the peers sorted by name, and a channel that is closed when they are no longer these.
func (r *Registry) watch() ([]Peer, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	peers := slices.SortedFunc(maps.Values(r.peers), func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return peers, r.changed
}
