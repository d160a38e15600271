package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/datapath"
)

// refusals are the networks that the prefilter drops: those of the configuration and those of the CIDR groups that it names.
type refusals struct {
	// apply puts them into force.
	apply func(context.Context, []netip.Prefix) error
	// needed are ranges without which the node would be cut off: no network that has a part of them is refused.
	needed func() []netip.Prefix
	fixed  []netip.Prefix
	names  []string

	mu     sync.Mutex
	groups map[string][]netip.Prefix
	// applied is what is in force; nil before the first time.
	applied []netip.Prefix
	spared  []netip.Prefix
}

// setGroup takes in a group; nil takes it back. It counts at once, or with the first refresh.
func (r *refusals) setGroup(ctx context.Context, name string, networks []netip.Prefix) error {
	if r == nil || !slices.Contains(r.names, name) {
		return nil
	}
	r.mu.Lock()
	if r.groups == nil {
		r.groups = map[string][]netip.Prefix{}
	}
	delete(r.groups, name)
	if networks != nil {
		r.groups[name] = networks
	}
	begun := r.applied != nil
	r.mu.Unlock()
	// Until all groups were listed, those of before the restart stay.
	if !begun {
		return nil
	}
	return r.refresh(ctx)
}

// refresh puts into force what is refused now, if that is not what it was.
func (r *refusals) refresh(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	needed := r.needed()
	networks, spared := []netip.Prefix{}, []netip.Prefix{}
	add := func(all []netip.Prefix) {
		for _, n := range all {
			n = n.Masked()
			if slices.ContainsFunc(needed, n.Overlaps) {
				spared = append(spared, n)
			} else {
				networks = append(networks, n)
			}
		}
	}
	add(r.fixed)
	for _, g := range r.groups {
		add(g)
	}
	sorted := func(p []netip.Prefix) []netip.Prefix {
		slices.SortFunc(p, netip.Prefix.Compare)
		return slices.Compact(p)
	}
	networks, spared = sorted(networks), sorted(spared)
	r.spared = spared
	if r.applied != nil && slices.Equal(networks, r.applied) {
		return nil
	}
	if err := r.apply(ctx, networks); err != nil {
		return err
	}
	r.applied = networks
	return nil
}

// state says how many networks are refused, which are not although they should be, and which groups are missing.
func (r *refusals) state() (refused int, spared []netip.Prefix, missing []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range r.names {
		if _, known := r.groups[name]; !known {
			missing = append(missing, name)
		}
	}
	return len(r.applied), slices.Clone(r.spared), missing
}

// origins names where a network is configured.
func (r *refusals) origins(network netip.Prefix) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	has := func(all []netip.Prefix) bool {
		return slices.ContainsFunc(all, func(n netip.Prefix) bool { return n.Masked() == network })
	}
	if has(r.fixed) {
		out = append(out, "xdpPrefilter.cidrs")
	}
	for _, name := range slices.Sorted(maps.Keys(r.groups)) {
		if has(r.groups[name]) {
			out = append(out, "CiliumCIDRGroup "+name+" (xdpPrefilter.cidrGroups)")
		}
	}
	return out
}

// newRefusals is nil where the prefilter is off.
func (a *agent) newRefusals(p *api.Parts) *refusals {
	if !a.config.EnableXDPPrefilter {
		return nil
	}
	r := &refusals{apply: p.Datapath.SetRefused, fixed: a.config.RefusedNetworks(), names: a.config.XDPPrefilter.CIDRGroups}
	r.needed = func() []netip.Prefix {
		c := p.Settings
		out := slices.Clone(c.PodCIDRs)
		for _, native := range []netip.Prefix{c.NativeRoutingCIDR, c.NativeRoutingCIDR6} {
			if native.IsValid() {
				out = append(out, native)
			}
		}
		addresses := []netip.Addr{c.NodeAddress, c.NodeAddress6}
		for _, n := range p.Nodes.Others() {
			addresses, out = append(addresses, n.Address, n.Address6), append(out, n.PodCIDRs...)
		}
		if server, err := netip.ParseAddr(a.config.KubernetesHost); err == nil {
			addresses = append(addresses, server.Unmap())
		}
		for _, address := range addresses {
			if address.IsValid() {
				out = append(out, netip.PrefixFrom(address, address.BitLen()))
			}
		}
		return out
	}
	return r
}

// reportDatapath says in status which devices are served, and which are not there.
func (a *agent) reportDatapath(p *api.Parts) {
	message := fmt.Sprintf("%s, devices %s, MTU %d", p.Settings.Routing, strings.Join(p.Settings.Devices, ", "), p.Datapath.MTU())
	var absent []string
	for _, d := range p.Datapath.XDP() {
		if d.Absent {
			absent = append(absent, d.Device)
		}
	}
	carried, lost := carriedOver(p.Datapath.CarriedOver())
	message += carried
	if len(absent) > 0 {
		a.components.set("datapath", api.StateDegraded, message+"; not there at the moment: "+strings.Join(absent, ", "),
			"Bring the interface back, which the agent then takes in by itself, or correct `devices`.")
		return
	}
	if lost && time.Since(a.started) < carriedShown {
		a.components.set("datapath", api.StateDegraded, message, "Connections that were open before this start may have to be made again; everything else the agent writes anew by itself.")
		return
	}
	a.components.ok("datapath", message)
}

// carriedShown is how long status is degraded by what an upgrade lost, which nobody can bring back.
const carriedShown = 5 * time.Minute

// carriedOver says what was taken over from an agent of another version, and what was lost; "" where there was none.
func carriedOver(all []datapath.Carried) (message string, lost bool) {
	entries, losses := 0, []string{}
	for _, c := range all {
		if entries += c.Entries; c.Lost > 0 {
			losses = append(losses, fmt.Sprintf("%d of %s (%s)", c.Lost, c.Map, c.Problem))
		}
	}
	if len(all) == 0 {
		return "", false
	}
	message = fmt.Sprintf("; %d entries taken over from another version", entries)
	if len(losses) > 0 {
		message += ", lost: " + strings.Join(losses, ", ")
	}
	return message, len(losses) > 0
}

// reportXDP says in status what happens on each device before the kernel's stack sees a packet, and why.
func (a *agent) reportXDP(p *api.Parts, r *refusals) {
	devices := p.Datapath.XDP()
	lines, on := []string{}, 0
	for _, d := range devices {
		lines = append(lines, d.Device+": "+onOff(d.Services)+" ("+d.Why+")")
		if d.Services {
			on++
		}
	}
	message, native := strings.Join(lines, "; "), a.config.LoadBalancer.Acceleration == datapath.AccelerationNative
	switch {
	case native && on < len(devices):
		a.components.set("xdp", api.StateDegraded, message+"; clients there are served at tc", "Do what the reason says, or set loadBalancer.acceleration: best-effort.")
	case on == 0:
		a.components.set("xdp", api.StateOff, message, "")
	default:
		a.components.ok("xdp", message)
	}
	if r == nil {
		return
	}
	lines, on = lines[:0], 0
	for _, d := range devices {
		lines = append(lines, d.Device+": "+onOff(d.Prefilter)+" ("+d.PrefilterWhy+")")
		if d.Prefilter {
			on++
		}
	}
	refused, spared, missing := r.state()
	message = fmt.Sprintf("networks refused: %d; %s", refused, strings.Join(lines, "; "))
	switch {
	case on < len(devices):
		a.components.set("prefilter", api.StateDegraded, message+"; nothing is refused there", "Use devices whose driver has XDP, or a policy of the host firewall.")
	case len(spared)+len(missing) > 0:
		if len(spared) > 0 {
			message += fmt.Sprintf("; not refused, because nodes, pods or the API server are in them: %v", spared)
		}
		if len(missing) > 0 {
			message += "; there is no CiliumCIDRGroup " + strings.Join(missing, ", ")
		}
		a.components.set("prefilter", api.StateDegraded, message, "Correct xdpPrefilter.cidrs, xdpPrefilter.cidrGroups or the groups.")
	default:
		a.components.ok("prefilter", message)
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
