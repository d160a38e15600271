package datapath

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settingsInterval is how often the kernel's settings are looked at: others set them anew, as systemd-sysctl does whenever a
// package brings a file.
const settingsInterval = 5 * time.Second

// keepSettings puts back what the pods' traffic needs of the kernel, until ctx ends.
func (k *kernel) keepSettings(ctx context.Context) {
	tick := time.NewTicker(settingsInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := k.change(ctx, "keeping the kernel's settings", func() error {
			changed := k.settingsChanged()
			if len(changed) == 0 {
				return nil
			}
			k.options.log.Warn("somebody changed settings of the kernel that pods' traffic needs; they are put back", "settings", strings.Join(changed, ", "))
			return k.prepareHost()
		})
		if err != nil && ctx.Err() == nil {
			k.options.log.Warn("the kernel's settings are not as pods' traffic needs them", "error", err)
		}
	}
}

// settingsChanged names those of the whole node that are not as prepareHost leaves them.
func (k *kernel) settingsChanged() (changed []string) {
	want := map[string]string{"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0"}
	if _, v6 := k.config.families(); v6 {
		want["net/ipv6/conf/all/forwarding"] = "1"
	}
	for name, value := range want {
		if now, err := readSysctl(name); err == nil && now != value {
			changed = append(changed, name+" = "+now)
		}
	}
	slices.Sort(changed)
	return changed
}

// reserveNodePorts keeps the kernel from giving a node port to a connection of the node's own: its answers would be taken for
// a client's packets. Only where the ranges overlap, which they do not by default.
func (k *kernel) reserveNodePorts() error {
	if !k.config.KubeProxyReplacement {
		return nil
	}
	const name = "net/ipv4/ip_local_reserved_ports"
	first, last := k.config.LoadBalancer.nodePorts()
	var from, to uint16
	own, err := readSysctl("net/ipv4/ip_local_port_range")
	if err != nil {
		return fmt.Errorf("reading the ports of connections: %w", err)
	}
	if _, err := fmt.Sscan(own, &from, &to); err != nil || from > last || to < first {
		return nil
	}
	reserved, err := readSysctl(name)
	if err != nil {
		return fmt.Errorf("reading the reserved ports: %w", err)
	}
	return k.sysctl(name, withPorts(reserved, first, last))
}

// withPorts adds a range to a list of ranges as the kernel writes it: ascending, none touching another.
func withPorts(list string, first, last uint16) string {
	type span struct{ from, to int }
	all := []span{{int(first), int(last)}}
	for text := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(strings.TrimSpace(text), "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		b := a
		if ranged {
			if b, err = strconv.Atoi(to); err != nil {
				continue
			}
		}
		all = append(all, span{a, b})
	}
	slices.SortFunc(all, func(x, y span) int { return x.from - y.from })
	merged := all[:1]
	for _, s := range all[1:] {
		if end := &merged[len(merged)-1]; s.from <= end.to+1 {
			end.to = max(end.to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	var out []string
	for _, s := range merged {
		if s.from == s.to {
			out = append(out, strconv.Itoa(s.from))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", s.from, s.to))
		}
	}
	return strings.Join(out, ",")
}
