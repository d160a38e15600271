package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/masqagent"
)

// dropNoMapping is Hubble's reason of packets for which no port was free.
const dropNoMapping = 167

// masqueradeRules are those of ip-masq-agent: the file of that name beside the configuration, as the ConfigMap of
// ip-masq-agent has it, or else what the configuration itself says.
func (a *agent) masqueradeRules(configuration, own []byte) ([]netip.Prefix, error) {
	if len(own) > 0 {
		rules, err := masqagent.Parse(own)
		if err != nil {
			return nil, err
		}
		return rules.Prefixes()
	}
	c, err := config.Parse(configuration)
	if err != nil {
		return nil, err
	}
	return c.IPMasqAgent.Config.Prefixes()
}

// followMasqueradeRules applies the rules of ip-masq-agent whenever a file with them changes, until ctx ends.
func (a *agent) followMasqueradeRules(ctx context.Context, p *api.Parts) {
	if !a.config.IPMasqAgent.Enabled {
		a.note("masquerade rules", p.Datapath.SetUnmasqueraded(ctx, nil))
		return
	}
	var mu sync.Mutex
	files := map[string][]byte{}
	failed := map[string]error{}
	apply := func(path string) func([]byte, error) {
		return func(text []byte, err error) {
			mu.Lock()
			defer mu.Unlock()
			files[path], failed[path] = text, err
			configuration, known := files[a.ConfigPath]
			if _, both := files[a.rulesPath()]; !known || !both {
				return
			}
			rules, err := a.masqueradeRules(configuration, files[a.rulesPath()])
			if err = errors.Join(err, failed[a.ConfigPath], failed[a.rulesPath()]); err == nil {
				err = p.Datapath.SetUnmasqueraded(ctx, rules)
			}
			if err != nil {
				a.components.set("ip-masq-agent", api.StateDegraded, "the former rules stay: "+err.Error(), "Correct ipMasqAgent.config in ConfigMap fairlead-config.")
				return
			}
			a.components.ok("ip-masq-agent", fmt.Sprintf("%d destinations are not masqueraded", len(rules)))
		}
	}
	var wait sync.WaitGroup
	for _, path := range []string{a.ConfigPath, a.rulesPath()} {
		wait.Go(func() { masqagent.Watch(ctx, path, masqagent.Interval, apply(path)) })
	}
	wait.Wait()
}

func (a *agent) rulesPath() string { return filepath.Join(filepath.Dir(a.ConfigPath), "ip-masq-agent") }

// exhausted counts packets for which no port was free.
func exhausted(counts []datapath.DropCount) (n uint64) {
	for _, c := range counts {
		if c.Reason == dropNoMapping && !c.Forwarded {
			n += c.Packets
		}
	}
	return n
}

// reportMasquerading says in status how what leaves the cluster is translated, and what is wrong with it.
func (a *agent) reportMasquerading(p *api.Parts) {
	m := p.Datapath.Masquerading()
	message := m.Mode
	if m.Mode == "off" {
		message = "packets leave the cluster with pods' addresses"
		if m.Err == nil && m.Netfilter.Err == nil && m.Netfilter.Repairs == 0 && len(m.Netfilter.Foreign) == 0 {
			a.components.set("masquerade", api.StateOff, message, "")
			return
		}
	}
	if m.FirstPort > 0 {
		message += fmt.Sprintf(", ports %d to 65535 towards each destination", m.FirstPort)
	}
	if n := m.Netfilter.Repairs; n > 0 {
		message += fmt.Sprintf("; somebody removed rules of ours %d times, last at %s (%s), and they were put back", n,
			m.Netfilter.LastRepair.UTC().Format(time.RFC3339), strings.Join(m.Netfilter.LastMissing, ", "))
	}
	switch counts, err := p.Datapath.Drops(dropNoMapping); {
	case m.Err != nil:
		a.components.fail("masquerade", m.Err, "See the agent's log.")
	case m.Netfilter.Err != nil:
		a.components.fail("masquerade", m.Netfilter.Err, "Load the kernel modules nf_tables, nft_masq, nf_nat and xt_CT.")
	case err == nil && a.exhaustion.grew(exhausted(counts), time.Now()):
		a.components.set("masquerade", api.StateDegraded, fmt.Sprintf("%s; %d packets were dropped because no port was free towards their destination", message, exhausted(counts)),
			"Fewer connections to one destination from one node, or a smaller node port range (nodePort.range). See: fairlead-agent bpf nat list")
	case len(m.Netfilter.Foreign) > 0:
		a.components.set("masquerade", api.StateDegraded, message+"; chains of others drop what is forwarded by default: "+strings.Join(m.Netfilter.Foreign, ", "),
			"Accept pods' ranges there where packets have to pass the host's stack (of iptables-legacy: `iptables-legacy -I FORWARD -s RANGE -j ACCEPT`, and the same with -d).")
	default:
		a.components.ok("masquerade", message)
	}
}

// recently tells whether a counter has grown within the last minutes.
type recently struct {
	seen  uint64
	until time.Time
	begun bool
}

// exhaustionShown is how long status speaks of an exhaustion after its last packet.
const exhaustionShown = 5 * time.Minute

func (r *recently) grew(now uint64, at time.Time) bool {
	// What a former agent of this boot counted is no news.
	if r.begun && now > r.seen {
		r.until = at.Add(exhaustionShown)
	}
	r.seen, r.begun = now, true
	return at.Before(r.until)
}
