// Package agent puts the parts together: it starts them in the order that keeps traffic whole, and says of each how it is.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/certificates"
	"fairlead.dev/node-agent/internal/cni"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/journal"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/peer"
	"fairlead.dev/node-agent/internal/services"
)

// Options are the paths and names that the command line gives.
type Options struct {
	ConfigPath, NodeName, Namespace, Version string
	// RunDirectory holds sockets, state of this boot and the lock; StateDirectory the journal.
	RunDirectory, StateDirectory string
	TLSDirectory                 string
	HubbleSocket                 string
	CNIBinaries, CNIConfigs      string
	// CNIConfigsOnNode is CNIConfigs as the node names it, for the journal's undo commands.
	CNIConfigsOnNode, CNIBinariesOnNode string
	BPFFS                               string
	// CgroupRoots are places where the node's cgroup2 tree may be mounted.
	CgroupRoots []string
	// OpenDatapath is datapath.Open, or a test's.
	OpenDatapath func(context.Context, datapath.Config, ...datapath.Option) (datapath.Datapath, error)
	// Probes of the kernel, where a test wants others.
	Probes datapath.Probes
}

// agent is the running thing.
type agent struct {
	Options
	level      *slog.LevelVar
	log        *slog.Logger
	components *components
	api        *api.Agent
	config     config.Config
	journal    *journal.Journal
	records    *records
	tls        *certificates.Directory
	peers      *peer.Registry
	client     *kubernetes.Client
	warnings   *warnings
	// healthErr says why probes of other nodes are not answered.
	healthErr error
	started   time.Time
	ready     readiness
	// exhaustion tells whether masquerading ran out of ports lately.
	exhaustion recently
	// serviceHealth answers load balancers that ask for the health of services and of this node.
	serviceHealth *services.Health
}

// Run runs the agent until ctx ends. It returns an error only where staying would not help: another agent runs on the
// node. Everything else keeps it up, so that it can say what is wrong.
func Run(ctx context.Context, o Options) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
		go followMemory(ctx)
	}
	a := &agent{Options: o, level: &slog.LevelVar{}, started: time.Now(), peers: &peer.Registry{}}
	a.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: a.level}))
	slog.SetDefault(a.log)
	a.components = newComponents(a.log)
	a.tls = certificates.Open(o.TLSDirectory)
	if err := os.MkdirAll(o.RunDirectory, 0o755); err != nil {
		return fmt.Errorf("making the run directory: %w", err)
	}
	lock, err := acquire(filepath.Join(o.RunDirectory, "agent.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	a.api = &api.Agent{NodeName: o.NodeName, Version: o.Version, Started: a.started, Components: a.components.list, Ready: a.isReady}
	a.log.Info("starting", "node", o.NodeName, "version", o.Version)

	journalPath := filepath.Join(o.StateDirectory, "journal.jsonl")
	if a.journal, err = journal.Open(journalPath); err != nil {
		a.components.fail("journal", err, "Make "+o.StateDirectory+" writable; the agent changes nothing that it cannot record.")
		a.journal = nil
	} else {
		defer a.journal.Close()
		a.api.Journal = a.journal
		a.components.ok("journal", journalPath)
		a.records = &records{journal: a.journal, components: a.components, path: journalPath}
	}
	// From here on somebody answers what is wrong.
	if err := a.serveHealth(ctx); err != nil {
		return err
	}
	stopEarly, err := a.serveEarly(ctx)
	if err != nil {
		return err
	}
	defer stopEarly()

	err = a.work(ctx, stopEarly)
	if ctx.Err() != nil {
		a.log.Info("ending; traffic goes on")
		return nil
	}
	if err != nil {
		a.log.Error("the agent cannot serve; it stays up to say so", "error", err)
	}
	<-ctx.Done()
	return nil
}

// AlreadyRunningError says that another agent has the node.
type AlreadyRunningError struct{ Path string }

// Error says what to do.
func (e *AlreadyRunningError) Error() string {
	return "another fairlead-agent runs on this node (it holds " + e.Path + "): two would undo each other's work; stop the other one first"
}

// acquire takes the node's lock; the kernel gives it back when the process ends, however it ends.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &AlreadyRunningError{Path: path}
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// work brings the parts up one after the other; each says through its component how it is.
func (a *agent) work(ctx context.Context, stopEarly func()) error {
	if a.journal == nil {
		return errors.New("no journal")
	}
	c, err := config.Load(a.ConfigPath)
	if err != nil {
		a.components.fail("config", err, "Correct ConfigMap fairlead-config and restart the agent.")
		return err
	}
	a.config = c
	a.api.Config.Store(&c)
	a.components.ok("config", a.ConfigPath)
	if c.Debug {
		a.level.Set(slog.LevelDebug)
	}
	a.serveMetrics(ctx)
	a.serveNodeHealth(ctx)
	if err := a.waitForOtherNetworks(ctx); err != nil {
		return err
	}
	if a.client, err = kubernetes.NewInCluster(kubernetes.Options{Host: c.KubernetesHost, Port: c.KubernetesPort, Version: a.Version, Log: a.log}); err != nil {
		a.components.fail("kubernetes", err, "Run the agent as a pod with service account fairlead-agent.")
		return err
	}
	a.warnings = newWarnings(a.client.Create, a.log)
	node, err := a.thisNode(ctx)
	if err != nil {
		return err
	}
	if datapath.RoutingMode(a.config.RoutingMode) == datapath.RoutingNative {
		announceNative(ctx, a.client, a.NodeName, a.log)
	}
	s, err := a.openDatapath(ctx, node)
	if err != nil {
		return err
	}
	defer s.parts.Datapath.Close()
	return a.serve(ctx, node, s, stopEarly)
}

// waitForOtherNetworks returns when no other CNI configuration is on the node.
func (a *agent) waitForOtherNetworks(ctx context.Context) error {
	for {
		others, err := cni.Others(a.CNIConfigs)
		switch {
		case err != nil:
			a.components.fail("cni", err, "Mount the node's /etc/cni/net.d at "+a.CNIConfigs+".")
		case len(others) == 0:
			a.components.set("cni", api.StateDegraded, "pods cannot be attached yet: the agent starts", "")
			return nil
		case a.config.CNI.Exclusive:
			err := cni.SetAside(a.CNIConfigs, others, func(kind, subject, before, after, undo string) error {
				return a.journal.Record(kind, filepath.Join(a.CNIConfigsOnNode, filepath.Base(subject)), before, after,
					"mv "+filepath.Join(a.CNIConfigsOnNode, before)+".fairlead-aside "+filepath.Join(a.CNIConfigsOnNode, before))
			})
			if err != nil {
				a.components.fail("cni", err, "Remove the other configurations by hand.")
				break
			}
			continue
		default:
			a.components.fail("cni", fmt.Errorf("another network is configured on this node: %v. Two networks would fight over the same pods", others),
				"Uninstall it and remove these files from "+a.CNIConfigsOnNode+", or set cni.exclusive: true. The agent looks again every 3 s.")
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// settings turns configuration and node into what the datapath is specialised with.
func (a *agent) settings(n thisNode, router, router6 netip.Addr) (datapath.Config, error) {
	devices := a.config.Devices
	if len(devices) == 0 {
		var err error
		if devices, err = outwardDevices(n.primary()); err != nil {
			return datapath.Config{}, err
		}
	}
	root, err := cgroupRoot(a.CgroupRoots)
	if err != nil && *a.config.KubeProxyReplacement {
		return datapath.Config{}, err
	}
	if err := ensureBPFFS(a.BPFFS); err != nil {
		return datapath.Config{}, err
	}
	return datapath.Config{
		NodeName: a.NodeName, NodeAddress: n.Address, NodeAddress6: n.Address6, RouterAddress: router, RouterAddress6: router6, PodCIDRs: n.podCIDRs(),
		NativeRoutingCIDR: a.config.NativeRoutingCIDR(), NativeRoutingCIDR6: a.config.NativeRoutingCIDR6(), Routing: datapath.RoutingMode(a.config.RoutingMode),
		TunnelProtocol: datapath.TunnelProtocol(a.config.TunnelProtocol), TunnelPort: uint16(a.config.TunnelPort),
		EndpointRoutes: *a.config.EndpointRoutes.Enabled, AutoDirectNodeRoutes: a.config.AutoDirectNodeRoutes, Devices: devices, MTU: a.config.MTU,
		Masquerade: *a.config.EnableIPv4Masquerade, Masquerade6: *a.config.EnableIPv6Masquerade, BPFMasquerade: *a.config.BPF.Masquerade,
		NATMax: a.config.BPF.NATMax, NoConntrack: a.config.InstallNoConntrackIptablesRules, KubeProxyReplacement: *a.config.KubeProxyReplacement,
		CgroupRoot: root, BPFFS: a.BPFFS, HostFirewall: a.config.HostFirewall.Enabled, ConntrackMax: a.config.BPF.CTTCPMax, PolicyMax: a.config.BPF.PolicyMapMax,
		IPCacheMax: a.config.BPF.IPCacheMax, MonitorAggregation: a.config.BPF.MonitorAggregation != "none",
		MonitorAggregationInterval: 5 * time.Second, LoadBalancer: a.loadBalancer(), NetnsDirectory: netnsDirectory(), L7Proxy: *a.config.L7Proxy,
		BandwidthManager:    a.config.BandwidthManager.Enabled,
		MapDynamicSizeRatio: *a.config.BPF.MapDynamicSizeRatio, ConntrackGCInterval: a.config.GCInterval(), Prefilter: a.config.EnableXDPPrefilter,
	}, nil
}
