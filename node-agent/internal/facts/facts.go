// Package facts reads what a node is like, without changing anything: interfaces, network cards, and the rules that
// netfilter holds. It is a fixed list; nothing that is asked comes from outside.
package facts

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/xdpfeatures"
)

// Facts of one node. Problems names what could not be read.
type Facts struct {
	Kernel      string         `json:"kernel"`
	Interfaces  []Interface    `json:"interfaces"`
	Cards       []Card         `json:"cards"`
	Rules       []Rule         `json:"rules"`
	NoTrack     []Rule         `json:"noTrack"`
	Services    ServiceChains  `json:"serviceChains"`
	RunningYAML string         `json:"configuration,omitempty"`
	Problems    []string       `json:"problems,omitempty"`
	Routes      map[string]int `json:"routes"`
}

// Interface is one link.
type Interface struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	MTU       int      `json:"mtu"`
	Up        bool     `json:"up"`
	MAC       string   `json:"mac,omitempty"`
	Addresses []string `json:"addresses"`
	// Peer is true for the node's end of a pod's interface.
	Peer bool `json:"peer,omitempty"`
}

// Card is a network card and what drives it.
type Card struct {
	Interface string `json:"interface"`
	Driver    string `json:"driver"`
	Version   string `json:"version"`
	Firmware  string `json:"firmware"`
	Bus       string `json:"bus"`
	// XDP is native, generic or unknown: what the driver itself says.
	XDP string `json:"xdp"`
}

// Read reads everything; configuration is the file that the agent runs with, if there is one.
func Read(configuration string) Facts {
	f := Facts{Routes: map[string]int{}, Interfaces: []Interface{}, Cards: []Card{}, Rules: []Rule{}, NoTrack: []Rule{}}
	problem := func(doing string, err error) {
		if err != nil {
			f.Problems = append(f.Problems, fmt.Sprintf("%s: %v", doing, err))
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		f.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	problem("listing interfaces", f.readLinks())
	rules, err := readRules()
	problem("reading nftables", err)
	f.Rules, f.NoTrack, f.Services = sorted(rules)
	legacy, err := legacyServiceChains()
	problem("reading iptables", err)
	f.Services.Legacy = legacy
	for family, name := range map[int]string{netlink.FAMILY_V4: "ipv4", netlink.FAMILY_V6: "ipv6"} {
		routes, err := netlink.RouteList(nil, family)
		problem("listing routes", err)
		f.Routes[name] = len(routes)
	}
	if text, err := os.ReadFile(configuration); err == nil {
		f.RunningYAML = string(text)
	}
	return f
}

func (f *Facts) readLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	for _, l := range links {
		a := l.Attrs()
		entry := Interface{Name: a.Name, Kind: kindOf(l), MTU: a.MTU, Up: a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown,
			Addresses: []string{}}
		if len(a.HardwareAddr) > 0 {
			entry.MAC = a.HardwareAddr.String()
		}
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("addresses of %s: %w", a.Name, err)
		}
		// The node's end of a pod's interface has no address of its own; a veth that has one is the node's uplink.
		entry.Peer = l.Type() == "veth" && a.NetNsID >= 0
		for _, address := range addresses {
			entry.Addresses = append(entry.Addresses, address.IPNet.String())
			entry.Peer = entry.Peer && address.IP.IsLinkLocalUnicast()
		}
		f.Interfaces = append(f.Interfaces, entry)
		if card, ok := readCard(socket, l, entry); ok {
			card.XDP = xdpfeatures.Mode(a.Index)
			f.Cards = append(f.Cards, card)
		}
	}
	sort.SliceStable(f.Interfaces, func(i, j int) bool { return !f.Interfaces[i].Peer && f.Interfaces[j].Peer })
	return nil
}

func kindOf(l netlink.Link) string {
	if l.Attrs().Flags&unix.IFF_LOOPBACK != 0 {
		return "loopback"
	}
	return l.Type()
}

// readCard asks the driver of everything that is not an inner link of a pod; the answer says whether it has one.
func readCard(socket int, l netlink.Link, entry Interface) (Card, bool) {
	if entry.Kind == "loopback" || entry.Peer || strings.HasPrefix(entry.Name, "fairlead") {
		return Card{}, false
	}
	info, err := unix.IoctlGetEthtoolDrvinfo(socket, l.Attrs().Name)
	if err != nil {
		return Card{}, false
	}
	// What follows the first zero is what a driver has left there.
	text := func(b []byte) string {
		before, _, _ := bytes.Cut(b, []byte{0})
		return string(before)
	}
	return Card{Interface: entry.Name, Driver: text(info.Driver[:]), Version: text(info.Version[:]), Firmware: text(info.Fw_version[:]), Bus: text(info.Bus_info[:])}, true
}
