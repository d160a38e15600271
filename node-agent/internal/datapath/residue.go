package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath/netfilter"
)

// nameLength is how much the kernel keeps of a program's name.
const nameLength = unix.BPF_OBJ_NAME_LEN - 1

// Residue looks for everything that a datapath could have left in the calling thread's network namespace, below bpffs and
// on the cgroups: pins, attached programs, filters, interfaces, routes, rules, tables. It asks the kernel, not the journal,
// and says what it could not look at.
func Residue(bpffs string, cgroups []string) []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	failed := func(doing string, err error) {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			add("%s could not be looked at: %v", doing, err)
		}
	}
	own, err := ownPrograms()
	failed("the own programs", err)
	root := filepath.Join(bpffs, "fairlead")
	failed("pins", filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			add("pin %s", path)
		}
		return err
	}))
	if _, err := os.Stat(root); err == nil {
		add("directory %s", root)
	}
	links, err := netlink.LinkList()
	failed("interfaces", err)
	for _, l := range links {
		for _, name := range programsOf(l, own) {
			add("program %s on interface %s", name, l.Attrs().Name)
		}
	}
	scheduled, err := ownSchedulers()
	failed("packet schedulers", err)
	for _, l := range scheduled {
		add("packet scheduler on interface %s", l.Attrs().Name)
	}
	for _, directory := range cgroups {
		for _, name := range cgroupPrograms(directory, own) {
			add("program %s on cgroup %s", name, directory)
		}
	}
	for _, family := range families() {
		// Of every table, not of the main one alone.
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		failed("routes", err)
		for _, r := range routes {
			add("route to %s in table %d", r.Dst, r.Table)
		}
		rules, err := netlink.RuleList(family)
		failed("rules", err)
		for _, r := range rules {
			if r.Protocol == routeProtocol {
				add("rule %s", r.String())
			}
		}
	}
	names, err := ownTables()
	failed("nftables", err)
	for _, name := range names {
		add("nftables %s", name)
	}
	return found
}

// ownPrograms are the names of all programs in the compiled objects, as the kernel shortens them.
func ownPrograms() (map[string]bool, error) {
	names := map[string]bool{}
	files, err := fs.Glob(compiled, "objects/*.o")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		collection, err := parseObject(strings.TrimSuffix(filepath.Base(file), ".o"))
		if err != nil {
			return nil, err
		}
		for name := range collection.Programs {
			names[name[:min(len(name), nameLength)]] = true
		}
	}
	return names, nil
}

func programsOf(l netlink.Link, own map[string]bool) []string {
	var found []string
	index := l.Attrs().Index
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		found = append(found, attachedTo(link.QueryOptions{Target: index, Attach: attach}, own)...)
	}
	if xdp := l.Attrs().Xdp; xdp != nil && xdp.Attached {
		if name := programName(ebpf.ProgramID(xdp.ProgId)); own[name] {
			found = append(found, name)
		}
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil {
			continue
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && b.Name == filterName {
				found = append(found, b.Name+" (filter)")
			}
		}
	}
	return found
}

func cgroupPrograms(directory string, own map[string]bool) []string {
	file, err := os.Open(directory)
	if err != nil {
		return nil
	}
	defer file.Close()
	var found []string
	for _, attach := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind, ebpf.AttachCgroupInetSockRelease} {
		found = append(found, attachedTo(link.QueryOptions{Target: int(file.Fd()), Attach: attach}, own)...)
	}
	return found
}

// attachedTo gives the own programs at one place; a place or a kernel that cannot be asked has none.
func attachedTo(options link.QueryOptions, own map[string]bool) []string {
	result, err := link.QueryPrograms(options)
	if err != nil {
		return nil
	}
	var found []string
	for _, p := range result.Programs {
		if name := programName(p.ID); own[name] {
			found = append(found, name)
		}
	}
	return found
}

func programName(id ebpf.ProgramID) string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

func ownTables() ([]string, error) {
	connection, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := connection.ListTables()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, t := range tables {
		if strings.HasPrefix(t.Name, netfilter.TableName) {
			found = append(found, "table "+t.Name)
		}
	}
	chains, err := connection.ListChains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if strings.HasPrefix(c.Name, "FAIRLEAD") {
			found = append(found, "chain "+c.Table.Name+" "+c.Name)
		}
	}
	return found, nil
}
