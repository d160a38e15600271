package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/cni"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/edges"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/ipam"
	"fairlead.dev/node-agent/internal/ipcache"
	"fairlead.dev/node-agent/internal/journal"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/internal/peer"
	"fairlead.dev/node-agent/internal/policies"
	"fairlead.dev/node-agent/internal/services"
	"fairlead.dev/node-agent/policy"
)

// readiness is set once; it stays when the API server goes away.
type readiness struct{ done atomic.Bool }

func (a *agent) isReady() bool { return a.ready.done.Load() }

// serving is what stands on an open datapath.
type serving struct {
	parts    *api.Parts
	cluster  *cluster
	watcher  *watcher
	live     chan struct{}
	resolver *resolver
	proxies  proxies
}

// openDatapath opens the datapath, again and again where the kernel refuses, and makes the managers.
func (a *agent) openDatapath(ctx context.Context, n thisNode) (*serving, error) {
	pools := map[bool]*ipam.Pool{}
	var routers [2]netip.Addr
	for i, p := range []netip.Prefix{n.PodCIDR, n.PodCIDR6} {
		if !p.IsValid() {
			continue
		}
		pool, err := ipam.New(p)
		if err != nil {
			a.components.fail("node", err, "Give the node another pod CIDR.")
			return nil, err
		}
		pools[i == 1], routers[i] = pool, pool.Router()
	}
	a.components.ok("node", fmt.Sprintf("%s, pods %v", n.primary(), n.podCIDRs()))
	for {
		settings, err := a.settings(n, routers[0], routers[1])
		var dp datapath.Datapath
		if err == nil {
			options := []datapath.Option{datapath.WithLogger(a.log), datapath.WithJournal(func(kind, subject, before, after, undo string) error {
				return a.records.record(journal.Entry{Kind: kind, Subject: subject, Before: before, After: after, Undo: undo})
			})}
			if a.Probes != nil {
				options = append(options, datapath.WithProbes(a.Probes))
			}
			if err = a.recordOwn(settings); err == nil {
				dp, err = a.OpenDatapath(ctx, settings, options...)
			}
		}
		if err == nil {
			a.serviceHealth = services.NewHealth(ctx, a.isReady, a.log)
			parts := a.build(n, pools[false], pools[true], settings, dp)
			a.reportDatapath(parts.parts)
			return parts, nil
		}
		a.components.fail("datapath", err, "Run fairlead-agent preflight on the node.")
		if err := pause(ctx, 10*time.Second); err != nil {
			return nil, err
		}
	}
}

// recordOwn journals what the datapath and the agent make of their own, before they do.
func (a *agent) recordOwn(c datapath.Config) error {
	const cleanup = "fairlead-agent cleanup"
	pins := filepath.Join(c.BPFFS, "fairlead")
	record := func(kind, subject, after, undo string) error { return a.journal.Record(kind, subject, "", after, undo) }
	binary, conflist := filepath.Join(a.CNIBinariesOnNode, cni.BinaryName), filepath.Join(a.CNIConfigsOnNode, cni.ConflistName)
	errs := []error{
		record("pin", pins, "maps and links", cleanup),
		record("file", binary, "CNI plugin", "rm "+binary),
		record("file", conflist, "CNI configuration", "rm "+conflist),
		record("link", "fairlead_host", "veth pair of the node with "+c.RouterAddress.String(), "ip link del fairlead_host"),
		record("route", fmt.Sprint(c.PodCIDRs), "routes with protocol 241", ""),
	}
	if c.Routing == datapath.RoutingTunnel {
		errs = append(errs, record("link", c.TunnelDevice(), "device of the tunnel", "ip link del "+c.TunnelDevice()))
	}
	if (c.Masquerade || c.Masquerade6) && !c.BPFMasquerade {
		errs = append(errs, record("nftables", "inet fairlead", "masquerading of what leaves the cluster", "nft delete table inet fairlead"))
	}
	for _, device := range c.Devices {
		errs = append(errs, record("program", device, "from_netdev at tc ingress, to_netdev at tc egress", cleanup))
		if c.Prefilter || c.KubeProxyReplacement && c.LoadBalancer.Acceleration != datapath.AccelerationDisabled {
			errs = append(errs, record("program", device, "prefilter, xdp_netdev or both (xdp_filtered) at XDP, where the driver has it", cleanup))
		}
	}
	if c.KubeProxyReplacement {
		errs = append(errs, record("cgroup", c.CgroupRoot, "connect4, sendmsg4, recvmsg4, getpeername4", cleanup))
	}
	return errors.Join(errs...)
}

func (a *agent) build(n thisNode, pool, pool6 *ipam.Pool, settings datapath.Config, dp datapath.Datapath) *serving {
	state := filepath.Join(a.RunDirectory, "state")
	s := &serving{live: make(chan struct{})}
	registry := identities.NewRegistry(identities.ClientAPI{Client: a.client}, a.log)
	cache := ipcache.New(a.log)
	mode := policies.Mode(a.config.PolicyEnforcementMode)
	policyManager := policies.New(dp, cache, mode, a.log)
	p := &api.Parts{Datapath: dp, Settings: settings, Pool: pool, Pool6: pool6, Registry: registry, Cache: cache, Policies: policyManager,
		Services: a.newServices(settings, dp), Nodes: nodes.New(a.NodeName, dp, cache, state, a.log), Prober: nodes.NewProber(),
		ServerName: peer.ServerName(a.NodeName, a.config.Cluster.Name), Live: s.live}
	p.Announcer = &nodes.Announcer{Port: hubblePort(a.config.Hubble.ListenAddress), Log: a.log, Credentials: func(node string) credentials.TransportCredentials {
		return a.tls.Client(peer.ServerName(node, a.config.Cluster.Name))
	}}
	nodeOptions := policies.NodeOptions{Self: a.NodeName, SelectorLabels: a.config.NodeSelectorLabels,
		CIDR: slices.Contains(a.config.PolicyCIDRMatchMode, "nodes")}
	if a.config.HostFirewall.Enabled {
		audit := a.config.HostFirewall.AuditMode || a.config.PolicyAuditMode
		nodeOptions.Host = func(ctx context.Context, enforced [2]bool) error {
			return dp.UpsertHost(ctx, datapath.Host{PolicyIngress: enforced[policy.Ingress], PolicyEgress: enforced[policy.Egress], Audit: audit})
		}
	}
	policyManager.UseNodes(nodeOptions)
	pinned, err := dp.IPs()
	if err == nil {
		err = policyManager.Restore(filepath.Join(state, "ranges.json"), pinned)
	}
	a.note("identities of before the restart", err)
	p.Nodes.Identity = policyManager.NodeIdentity
	p.Nodes.OnChange = func(other datapath.Node, deleted bool) {
		defer p.Prober.Soon()
		if deleted {
			a.peers.Delete(peer.ForNode(other.Name, a.config.Cluster.Name, other.Primary()).Name)
			p.Announcer.Forget(other.Name)
			return
		}
		a.peers.Upsert(peer.ForNode(other.Name, a.config.Cluster.Name, other.Primary()))
		p.Announcer.Prepare(other)
	}
	a.peers.Upsert(peer.ForNode(a.NodeName, a.config.Cluster.Name, n.primary()))
	s.resolver = &resolver{cache: cache, registry: registry, policies: policyManager, services: func() *services.Manager { return p.Services }}
	p.Flows = flows.New(flows.Options{Resolver: s.resolver, Capacity: a.config.Hubble.EventBufferCapacity,
		Node: flows.NodeInfo{Name: a.NodeName, Cluster: a.config.Cluster.Name, Version: a.Version, Address: n.primary(), Started: a.started}})
	p.Edges = edges.New(p.Flows)
	s.cluster = &cluster{client: a.client, nodes: p.Nodes, announcer: p.Announcer, nodeName: a.NodeName, nodeAddress: n.primary()}
	p.Endpoints = endpoints.New(endpoints.Options{Datapath: dp, Pool: pool, Pool6: pool6, Registry: registry, Policies: policyManager, Cache: cache,
		Cluster: s.cluster, StateDirectory: filepath.Join(state, "endpoints"), ClusterName: a.config.Cluster.Name, NodeName: a.NodeName,
		Mode: mode, Audit: a.config.PolicyAuditMode, Log: a.log, RemoveLink: podlink.TeardownPodInterface})
	p.Proxies = s.proxies.counters
	s.parts = p
	return s
}

// serve restores, synchronises, publishes and then serves until ctx ends.
func (a *agent) serve(ctx context.Context, n thisNode, s *serving, stopEarly func()) error {
	p := s.parts
	// Everybody who is nobody else is the world; this node is the host, by its addresses and its router's.
	for _, unspecified := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		world := ipcache.Entry{IPEntry: datapath.IPEntry{Prefix: netip.PrefixFrom(unspecified, 0), Identity: uint32(policy.IdentityWorld)}}
		a.note("ipcache", p.Cache.Upsert(ctx, ipcache.SourceCIDR, world))
	}
	for _, own := range []netip.Addr{n.Address, n.Address6, p.Settings.RouterAddress, p.Settings.RouterAddress6} {
		if !own.IsValid() {
			continue
		}
		a.note("ipcache", p.Cache.Upsert(ctx, ipcache.SourceLocalHost, ipcache.Entry{
			IPEntry: datapath.IPEntry{Prefix: netip.PrefixFrom(own, own.BitLen()), Identity: uint32(policy.IdentityHost)}, Owner: ipcache.Owner{NodeName: a.NodeName}}))
	}
	s.watcher = &watcher{ctx: ctx, parts: p, log: a.log, self: a.NodeName, refresh: newQueue(), policyChanged: make(chan struct{}, 1), selfChanged: make(chan struct{}, 1)}
	if s.watcher.refusals = a.newRefusals(p); s.watcher.refusals != nil {
		p.RefusedBy = s.watcher.refusals.origins
	}
	s.watcher.informers(a.client)
	s.cluster.pods, s.cluster.namespaces, s.cluster.ceps = s.watcher.pods, s.watcher.namespaces, s.watcher.ceps
	if err := p.Endpoints.Restore(ctx); err != nil {
		a.log.Warn("not all endpoints of before the restart could be taken over", "error", err)
	}
	if err := cni.ProcessTombstones(ctx, filepath.Join(a.RunDirectory, "deleted"), p.Endpoints.Detach); err != nil {
		a.log.Warn("removals of while the agent was away were not all carried out", "error", err)
	}
	a.components.ok("endpoints", fmt.Sprintf("%d restored", len(p.Endpoints.List())))
	a.api.Parts.Store(p)
	go func() {
		for ctx.Err() == nil {
			if err := p.Datapath.Events(ctx, p.Flows.Ingest, p.Flows.Lost); err != nil && ctx.Err() == nil {
				a.components.set("flows", api.StateDegraded, "events cannot be read: "+err.Error(), "See the agent's log.")
				_ = pause(ctx, time.Second)
			}
		}
	}()
	if err := a.serveHubble(ctx, s, stopEarly); err != nil {
		return err
	}
	if err := a.waitForDefinitions(ctx); err != nil {
		return err
	}
	// Before the first policy comes: without proxies those with rules on content would not be valid.
	a.startProxies(ctx, s)
	for _, i := range s.watcher.all {
		go i.Run(ctx)
	}
	if err := a.waitForSync(ctx, s.watcher.all); err != nil {
		return err
	}
	// What pods learned of names before the restart counts before a policy is written.
	a.note("addresses of names", s.proxies.refresh(ctx))
	// Policy lines before addresses: nobody is judged by an identity that no line knows. Services and nodes last.
	a.start("policies", p.Policies.Start(ctx))
	a.start("ipcache", p.Cache.Start(ctx, p.Datapath))
	a.note("node ports", a.followNode(ctx, s))
	a.start("services", p.Services.Start(ctx))
	a.start("nodes", p.Nodes.Start(ctx))
	if p.Settings.KubeProxyReplacement {
		go a.serviceHealth.ServeNode(nodeHealthAddress)
	}
	close(s.live)
	if err := a.publishSelf(ctx, n, p); err != nil {
		return err
	}
	return a.attachPods(ctx, n, s)
}

func (a *agent) note(what string, err error) {
	if err != nil {
		a.log.Warn("a change was refused; it will be tried again", "change", what, "error", err)
	}
}

func (a *agent) start(name string, err error) {
	if err != nil {
		a.components.set(name, api.StateDegraded, err.Error(), "The agent tries again every 2 s; see the map pressure in status.")
		return
	}
	a.components.ok(name, "in step with the cluster")
}

// waitForDefinitions waits for the custom resource definitions.
func (a *agent) waitForDefinitions(ctx context.Context) error {
	for {
		var missing []string
		for _, name := range []string{"ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies", "ciliumendpoints", "ciliumidentities", "ciliumnodes", "ciliumcidrgroups"} {
			if err := a.client.Served(ctx, kubernetes.Resource{Group: endpointResource.Group, Name: name}); err != nil {
				missing = append(missing, name+": "+err.Error())
			}
		}
		if len(missing) == 0 {
			a.components.ok("definitions", "all of cilium.io that the agent needs")
			return nil
		}
		a.components.set("definitions", api.StateFailing, "waiting for custom resources: "+strings.Join(missing, "; "), "Apply node-agent/api/crds and the agent's ClusterRole (the console's installation does both).")
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// waitForSync waits until every informer has handed over its first list.
func (a *agent) waitForSync(ctx context.Context, all []watched) error {
	start := time.Now()
	for {
		var waiting []string
		for _, i := range all {
			if !i.Synced() {
				text := i.Name()
				if err := i.Err(); err != nil {
					text += " (" + err.Error() + ")"
				}
				waiting = append(waiting, text)
			}
		}
		if len(waiting) == 0 {
			a.components.ok("kubernetes", a.client.Host())
			return nil
		}
		if time.Since(start) > 3*time.Second {
			a.components.set("kubernetes", api.StateFailing, "waiting for "+strings.Join(waiting, ", "), "Check that the API server answers and that the agent's ClusterRole allows these.")
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// publishSelf writes this node's CiliumNode, until it succeeds.
func (a *agent) publishSelf(ctx context.Context, n thisNode, p *api.Parts) error {
	for {
		err := publishNode(ctx, a.client, a.NodeName, n.UID, nodeSpec(p.Settings, *a.config.HealthChecking), p.Settings.Routing)
		if err == nil {
			return nil
		}
		a.components.fail("nodes", fmt.Errorf("publishing this node: %w", err), "Check the agent's ClusterRole.")
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		a.components.ok("nodes", "in step with the cluster")
	}
}

// keepPublished writes this node's CiliumNode again when somebody deleted or changed it, as long as there is the node.
func (a *agent) keepPublished(ctx context.Context, n thisNode, s *serving) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.watcher.selfChanged:
		}
		var object corev1.Node
		if err := a.client.Get(ctx, nodeResource, a.NodeName, &object); apierrors.IsNotFound(err) {
			continue
		}
		// It ends with an error only when ctx does.
		if a.publishSelf(ctx, n, s.parts) != nil {
			return
		}
	}
}

// attachPods lets the container runtime in, and does what has to be done now and then, until ctx ends.
func (a *agent) attachPods(ctx context.Context, n thisNode, s *serving) error {
	p := s.parts
	server := &cni.Server{Endpoints: p.Endpoints, Router: p.Settings.RouterAddress, Router6: p.Settings.RouterAddress6, MTU: p.Datapath.MTU, Ready: func() error { return nil }, Log: a.log}
	listener, err := cni.Listen(filepath.Join(a.RunDirectory, "cni.sock"))
	if err != nil {
		a.components.fail("cni", err, "Make "+a.RunDirectory+" writable.")
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ctx, listener) }()
	if _, err = cni.InstallBinary(a.CNIBinaries); err == nil {
		err = cni.WriteConflist(a.CNIConfigs)
	}
	if err != nil {
		a.components.fail("cni", err, "Mount the node's /opt/cni/bin and /etc/cni/net.d writable.")
		return err
	}
	a.components.ok("cni", filepath.Join(a.CNIConfigsOnNode, cni.ConflistName))
	took := time.Since(a.started)
	a.api.StartToReady.Store(int64(took))
	a.ready.done.Store(true)
	a.log.Info("ready", "after", took.Round(time.Millisecond))
	p.Endpoints.Restored(ctx)
	go a.duties(ctx, s)
	go settle(ctx, a.log)
	go a.keepPublished(ctx, n, s)
	select {
	case err := <-failed:
		a.components.fail("cni", err, "Restart the agent.")
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
