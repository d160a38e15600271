// Package api serves the agent: its own gRPC service, Hubble's, health and metrics.
package api

import (
	"maps"
	"net/netip"
	"sync/atomic"
	"time"

	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/edges"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipam"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/journal"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/internal/services"
)

// State of a component.
type State string

// The states.
const (
	StateOK       State = "ok"
	StateDegraded State = "degraded"
	StateFailing  State = "failing"
	StateOff      State = "off"
)

// Component is one part of the agent.
type Component struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

// ProxyCounter is how often a proxy (http or dns) did something.
type ProxyCounter struct {
	Proxy, Outcome string
	Count          uint64
}

// Parts are what the handlers answer from; they are there when the datapath is open.
type Parts struct {
	Datapath   datapath.Datapath
	Settings   datapath.Config
	Pool       *ipam.Pool
	Pool6      *ipam.Pool
	Registry   *identities.Registry
	Cache      *ipcache.Cache
	Policies   *policies.Manager
	Services   *services.Manager
	Endpoints  *endpoints.Manager
	Nodes      *nodes.Manager
	Prober     *nodes.Prober
	Announcer  *nodes.Announcer
	Flows      *flows.Store
	Edges      *edges.Aggregator
	ServerName string
	// RefusedBy names where a network is configured that the prefilter refuses; nil where there is no prefilter.
	RefusedBy func(netip.Prefix) []string
	// Proxies counts what the agent's proxies did; nil where there are none.
	Proxies func() []ProxyCounter
	// Live is closed when announcements can be taken in.
	Live <-chan struct{}
}

// Agent is what is known from the start.
type Agent struct {
	NodeName, Version string
	Started           time.Time
	// Config is nil until it was read.
	Config     atomic.Pointer[config.Config]
	Journal    *journal.Journal
	Components func() []Component
	Ready      func() bool
	// StartToReady in nanoseconds; 0 until ready.
	StartToReady atomic.Int64
	Parts        atomic.Pointer[Parts]
}

// Pools gives the pools of addresses by family.
func (p *Parts) Pools() map[string]*ipam.Pool {
	out := map[string]*ipam.Pool{"ipv4": p.Pool, "ipv6": p.Pool6}
	maps.DeleteFunc(out, func(_ string, pool *ipam.Pool) bool { return pool == nil })
	return out
}

func texts(addresses []netip.Addr) []string {
	out := make([]string, 0, len(addresses))
	for _, a := range addresses {
		out = append(out, a.String())
	}
	return out
}
